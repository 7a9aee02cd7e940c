"""The neighbours that two layers share, for all pairs of layers and all permutations at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from structure_reg._precision import result_dtype
from structure_reg._tiles import tile_rows
from structure_reg.similarity.nearest import Neighbours


class EdgeBlock(NamedTuple):
    """Neighbours of some rows of every x, as places in a table of the neighbours of every y."""

    permutation: int
    rows: Tensor  # (t,) indices of the rows of x
    places: Tensor  # (LA * t, k) int32
    table: Tensor  # (t * n, columns)


def edge_blocks(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: Tensor,
    columns: Sequence[Tensor | float],
    *,
    incoming: bool = False,
) -> Iterator[EdgeBlock]:
    """Look up the edges of all x among those of all y; row i of x is paired with row p[i] of y.

    An edge leads from a row to each of its neighbours. For a block of rows of y, a table holds the
    edges from these rows to all others: the entry of a layer in `columns` where it has the edge,
    and 0 elsewhere. An edge i -> j of x is then a single look-up of p[i] -> p[j] for all layers of
    y together. With `incoming`, the table holds the reversed edges.
    """
    X = torch.stack([layer.rows for layer in xs])  # (LA, n, k)
    LA, n, k = X.shape
    dtype = result_dtype(*(value for value in columns if isinstance(value, Tensor)))
    block = min(n, tile_rows(dtype.itemsize * (n * len(columns) + LA * (4 * k + 2 * len(columns)))))
    # One more row than a block, which receives the edges that end outside it.
    table = torch.zeros((block + 1) * n, len(columns), dtype=dtype, device=X.device)
    partners = permutations.argsort(-1)  # (B, n), the row of x paired with each row of y
    for start in range(0, n, block):
        stop = min(start + block, n)
        write_edges(table, ys, columns, start, stop, incoming=incoming)
        first = n * torch.arange(stop - start, device=X.device, dtype=torch.int32)  # (t,)
        for b, p in enumerate(permutations.int()):
            rows = partners[b, start:stop]
            places = (p[X[:, rows]] + first[:, None]).view(-1, k)
            yield EdgeBlock(b, rows, places, table[: block * n])
        write_edges(table, ys, [0.0] * len(columns), start, stop, incoming=incoming)


def write_edges(
    table: Tensor,
    ys: Sequence[Neighbours],
    columns: Sequence[Tensor | float],
    start: int,
    stop: int,
    *,
    incoming: bool,
) -> None:
    """Write the value of each column where its layer has an edge; column c is of layer c % LB."""
    n, block = len(ys[0].rows), len(table) // len(ys[0].rows) - 1
    for c, value in enumerate(columns):
        ends = ys[c % len(ys)].rows  # (n, k)
        if incoming:
            inside = (start <= ends) & (ends < stop)
            sources = torch.arange(n, device=ends.device)[:, None]
            places = torch.where(inside, (ends - start) * n + sources, block * n)
        else:
            ends = ends[start:stop]
            places = ends + n * torch.arange(len(ends), device=ends.device)[:, None]
            value = value[start:stop].flatten() if isinstance(value, Tensor) else value
        table[:, c][places.flatten()] = value


@torch.no_grad()
def overlap_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: Tensor,
    *,
    row_value: Callable[[Tensor], Tensor],
    incoming: bool = False,
) -> Tensor:
    """Mean of ``row_value(m_i)``, where row i shares m_i edges: (B, LA, LB), float64.

    A permutation costs n k LA look-ups and no Gram matrix.
    """
    LA, LB = len(xs), len(ys)
    total = permutations.new_zeros(len(permutations), LA, LB, dtype=torch.float64)
    for b, _, places, table in edge_blocks(xs, ys, permutations, [1.0] * LB, incoming=incoming):
        m = embedding_bag(places, table, mode="sum").view(LA, -1, LB)
        total[b] += row_value(m).sum(1, dtype=torch.float64)
    return total / permutations.shape[1] + nan_grid(xs, ys)


def nan_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """NaN for pairs in which a layer contains NaN, and 0 for the others."""
    x, y = (torch.stack([layer.nan for layer in layers]) for layers in (xs, ys))
    return x[:, None] + y  # (LA, LB)
