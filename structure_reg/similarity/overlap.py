"""Which neighbours two layers share, for every pair of layers and every permutation at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from structure_reg._tiles import tile_rows
from structure_reg.similarity.nearest import Neighbours


class Edges(NamedTuple):
    """The neighbours of some rows of every x, as places in a table of the neighbours of every y."""

    permutation: int
    rows: Tensor  # (t,), which rows of x
    places: Tensor  # (LA * t, k) int32
    table: Tensor  # (t * n, columns)


def edges(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: Tensor,
    columns: Sequence[Tensor | float],
    *,
    incoming: bool = False,
) -> Iterator[Edges]:
    """Look up the edges of all x among those of all y, with row p[i] of y as partner of row i of x.

    For a block of rows of y, a table holds what every layer of y says of the edge from this row to
    any other: 0 without one, else the layer's entry of `columns`. An edge i -> j of x is then one
    look-up, of p[i] -> p[j], for all layers of y together. With `incoming`, the table is of the
    edges turned round.
    """
    X = torch.stack([layer.rows for layer in xs])  # (LA, n, k)
    LA, n, k = X.shape
    block = min(n, tile_rows(4 * (n * len(columns) + LA * (4 * k + 2 * len(columns)))))
    # One row more than a block, for the edges that end outside it.
    table = torch.zeros((block + 1) * n, len(columns), device=X.device)
    partners = permutations.argsort(-1)  # (B, n), the row of x beside each row of y
    for start in range(0, n, block):
        stop = min(start + block, n)
        write(table, ys, columns, start, stop, incoming=incoming)
        first = n * torch.arange(stop - start, device=X.device, dtype=torch.int32)  # (t,)
        for b, p in enumerate(permutations.int()):
            rows = partners[b, start:stop]
            yield Edges(b, rows, (p[X[:, rows]] + first[:, None]).view(-1, k), table[: block * n])
        write(table, ys, [0.0] * len(columns), start, stop, incoming=incoming)


def write(
    table: Tensor,
    ys: Sequence[Neighbours],
    columns: Sequence[Tensor | float],
    start: int,
    stop: int,
    *,
    incoming: bool,
) -> None:
    """Put each column's value where its layer has an edge; with more columns than layers, again."""
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
    """Average ``row_value(m_i)`` over the rows, m_i the edges shared: (B, LA, LB), float64.

    n k LA look-ups a permutation, and no Gram matrix.
    """
    LA, LB = len(xs), len(ys)
    total = permutations.new_zeros(len(permutations), LA, LB, dtype=torch.float64)
    for found in edges(xs, ys, permutations, [1.0] * LB, incoming=incoming):
        m = embedding_bag(found.places, found.table, mode="sum").view(LA, -1, LB)
        total[found.permutation] += row_value(m).sum(1, dtype=torch.float64)
    return total / permutations.shape[1] + undefined(xs, ys)


def undefined(xs: Sequence[Neighbours], ys: Sequence[Neighbours]) -> Tensor:
    """0 for a pair of layers, or NaN where either holds a NaN."""
    x, y = (torch.stack([layer.nan for layer in layers]) for layers in (xs, ys))
    return x[:, None] + y  # (LA, LB)
