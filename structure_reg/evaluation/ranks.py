"""Cosine scores for rankings, and how many of them lie above those of the positives.

Scores are precise enough to tell nearly parallel rows apart. One product of two sides serves both
directions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import shared_direction, unit_deviations
from structure_reg._tiles import TILE_ROWS, fits, slices, tile_rows
from structure_reg.evaluation.ties import Standing, places

SCORE = 64  # bytes for each score of a block: with its offset, compared, and sorted
SIDE = 320  # rows of a block: it, its scores of both directions and a mask fit 2 MiB of cache
POSITIVE = 48  # bytes for each positive of a query: its score and counts, twice while in use


def tiles(n: int, bytes_per_row: int) -> list[slice]:
    """Return slices of n rows that fit the tile budget."""
    return slices(n, tile_rows(bytes_per_row))


def score_rounding(gallery: Tensor) -> Tensor:
    """Bound the difference between the products of one unit row with two equal rows."""
    longest = gallery.square().sum(-1).amax().sqrt()
    eps = torch.finfo(gallery.dtype).eps
    return 8 * eps * longest + 64 * torch.finfo(torch.float64).eps


def nan_of(*tensors: Tensor) -> Tensor:
    """Return NaN if any value is not finite, otherwise 0: comparisons alone would hide it."""
    return torch.stack([0 * x.sum(dtype=torch.float64) for x in tensors]).sum()


class RankedSide(NamedTuple):
    """What the ranking reads of one side, in the order of the ids: equal ids are adjacent."""

    rows: Tensor  # (n, d) unit rows minus the direction that they share
    direction: Tensor  # (d,) that direction, float64
    ids: Tensor  # (n,)
    scaling: Tensor  # (n,) or (1,) what CSLS adds to the cosines with these rows


def ranked_side(x: Tensor, ids: Tensor, scaling: Tensor) -> RankedSide:
    ids, order = ids.sort(stable=True)
    x, scaling = x[order], scaling.expand(len(x))[order]
    return RankedSide(unit_deviations(x), shared_direction(x), ids, scaling)


class Direction(NamedTuple):
    """All rows of one side as queries, and all rows of the other as gallery."""

    first: Tensor  # (n_x,) first positive of each query; the others follow it
    positives: Tensor  # (n_x,) number of positives
    most: int  # m, the largest number of positives, at least 1
    offset: Tensor  # (n_y,) added to the products
    rounding: Tensor  # () largest difference of tied scores
    nan: Tensor  # () 0, or NaN if an input is not finite


def direction(X: RankedSide, Y: RankedSide) -> Direction:
    """Queries X are ranked by u_i . w_j = (u_i - c) . w_j + c . w_j, the cosine up to a constant.

    The first product is that of the other direction, too.
    """
    first = torch.searchsorted(Y.ids, X.ids)
    positives = torch.searchsorted(Y.ids, X.ids, right=True) - first
    shared = [Y.rows[block].double() @ X.direction for block in slices(len(Y.ids), TILE_ROWS)]
    eps = torch.finfo(Y.rows.dtype).eps
    return Direction(
        first,
        positives,
        max(1, int(positives.amax())),
        offset=(torch.cat(shared) + Y.scaling).to(Y.rows),
        rounding=score_rounding(Y.rows) + 4 * eps * Y.scaling.abs().amax(),
        nan=nan_of(X.rows, Y.rows, Y.scaling),
    )


class Ranking(NamedTuple):
    """Some queries, their positives, and the columns counted so far."""

    way: Direction
    rows: slice  # of the queries
    T: Tensor  # (b, m) scores of the positives, -inf where there is none
    above: Tensor  # (b, m) number of columns above a positive
    tied: Tensor  # (b, m) number of columns tied with it


def ranking(way: Direction, rows: slice) -> Ranking:
    T = way.offset.new_full((rows.stop - rows.start, way.most), -torch.inf)
    above, tied = torch.zeros(2, *T.shape, dtype=torch.int32, device=T.device)
    return Ranking(way, rows, T, above, tied)


def rankings(X: RankedSide, Y: RankedSide) -> tuple[Iterable[Ranking], Iterable[Ranking]]:
    """Rank the rows of Y for the queries X, and the rows of X for the queries Y."""
    to_y, to_x = direction(X, Y), direction(Y, X)
    n_x, n_y = len(X.ids), len(Y.ids)
    if fits(POSITIVE * (n_x * to_y.most + n_y * to_x.most)):
        x, y = ranking(to_y, slice(0, n_x)), ranking(to_x, slice(0, n_y))
        rank(X.rows, Y.rows, x, y)
        return [x], [y]
    return one_way(X, Y, to_y), one_way(Y, X, to_x)


def one_way(X: RankedSide, Y: RankedSide, way: Direction) -> Iterator[Ranking]:
    """Rank for a few queries at a time, where the counts of all would not fit the budget."""
    for rows in tiles(len(X.ids), POSITIVE * way.most):
        x = ranking(way, rows)
        rank(X.rows, Y.rows, x)
        yield x


def rank(U: Tensor, W: Tensor, x: Ranking, y: Ranking | None = None) -> None:
    """Count the columns above and at each positive, in blocks that stay in a CPU's cache.

    Blocks with positives are computed twice: first for the scores of the positives, then to compare
    all scores with these. As both come from the same product, equal rows have equal scores.
    """
    side = min(SIDE, max(16, isqrt(tile_rows(SCORE))))
    start, stop, _ = x.rows.indices(len(U))
    queries = [slice(start + a.start, start + a.stop) for a in slices(stop - start, side)]
    blocks = [(a, b) for a in queries for b in slices(len(W), side)]
    for step, some in ((collect, with_positives(x.way, blocks)), (compare, blocks)):
        for a, b in some:
            D = U[a] @ W[b].mT  # (side, side)
            step(x, a, b, D)
            if y is not None:
                step(y, b, a, D.mT)


def with_positives(way: Direction, blocks: list[tuple[slice, slice]]) -> list[tuple[slice, slice]]:
    """Blocks that may hold a positive: those of queries with larger ids come later."""
    first, last = way.first.tolist(), (way.first + way.positives).tolist()
    return [(a, b) for a, b in blocks if first[a.start] < b.stop and b.start < last[a.stop - 1]]


def own(x: Ranking, a: slice) -> slice:
    """Queries a of all, as queries of this ranking."""
    return slice(a.start - x.rows.start, a.stop - x.rows.start)


def collect(x: Ranking, a: slice, b: slice, D: Tensor) -> None:
    """Keep the scores of the positives of queries a among the columns b."""
    T = x.T[own(x, a)]
    m = torch.arange(T.shape[1], device=D.device)
    column = x.way.first[a, None] + m - b.start  # (b, m)
    inside = (m < x.way.positives[a, None]) & (column >= 0) & (column < D.shape[1])
    S = (D + x.way.offset[b]).gather(1, column.clamp(0, D.shape[1] - 1))
    T.copy_(torch.where(inside, S, T))


def compare(x: Ranking, a: slice, b: slice, D: Tensor) -> None:
    rows = own(x, a)
    above, tied = places(D + x.way.offset[b], x.T[rows], x.way.rounding)
    x.above[rows] += above
    x.tied[rows] += tied


def standing(x: Ranking, rows: slice) -> tuple[Standing, Tensor]:
    """Places of the positives of some queries, and which of the m there are, (b, m)."""
    T, positives = x.T[rows], x.way.positives[x.rows][rows]
    valid = torch.arange(T.shape[1], device=T.device) < positives[:, None]
    best = T.argmax(1, keepdim=True)
    return Standing(x.above[rows], x.tied[rows], *places(T, T, x.way.rounding), best), valid
