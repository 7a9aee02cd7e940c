"""How many neighbours two layers share, for every pair of layers and every permutation at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from structure_reg._precision import full_precision
from structure_reg._tiles import tile_rows
from structure_reg.similarity.nearest import Neighbours


@torch.no_grad()
def overlap_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: Tensor,
    *,
    row_value: Callable[[Tensor], Tensor],
) -> Tensor:
    """Average ``row_value(m_i)`` over the rows, m_i the neighbours shared, as (B, LA, LB).

    Row p[i] of y is the partner of row i of x. A table says for a block of rows of y which layers
    have which edge; an edge i -> j of x is one look-up in it, of p[i] -> p[j], for all layers of y
    together: n k LA look-ups a permutation, and no Gram matrix.
    """
    X = torch.stack([layer.rows for layer in xs])  # (LA, n, k)
    LA, n, k = X.shape
    LB = len(ys)
    block = min(n, tile_rows(4 * (n * LB + LA * (3 * k + LB))))
    table = torch.zeros(block, n, LB, device=X.device)
    total = torch.zeros(len(permutations), LA, LB, device=X.device, dtype=torch.float64)
    partners = permutations.argsort(-1)  # (B, n), row of x beside each row of y
    with full_precision(X.device):
        for start in range(0, n, block):
            stop = min(start + block, n)
            put_edges(table, ys, start, stop, 1.0)
            weight = table[: stop - start].view(-1, LB)
            rows = n * torch.arange(stop - start, device=X.device, dtype=torch.int32)
            for b, p in enumerate(permutations.int()):
                edges = p[X[:, partners[b, start:stop]]] + rows[:, None]  # (LA, t, k)
                m = embedding_bag(edges.view(-1, k), weight, mode="sum").view(LA, -1, LB)
                total[b] += row_value(m).sum(1, dtype=torch.float64)
            put_edges(table, ys, start, stop, 0.0)
    return total / n + undefined(xs, ys)


def put_edges(
    table: Tensor, layers: Sequence[Neighbours], start: int, stop: int, value: float
) -> None:
    """Write `value` where a row of [start, stop) has a neighbour, a column per layer."""
    for l, layer in enumerate(layers):
        table[: stop - start, :, l].scatter_(1, layer.rows[start:stop].long(), value)


def undefined(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """0 for a pair of layers, or NaN where either holds a NaN."""
    x, y = (torch.stack([layer.nan for layer in layers]) for layers in (xs, ys))
    return x[:, None] + y  # (LA, LB)
