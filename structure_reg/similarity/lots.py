"""Lots among equally near rows: which of them are neighbours, and in which order.

A choice by row index would be the same on both sides, so unrelated features with many ties would
agree. Each side draws its own lots instead. They are a hash of the tied rows and not a stream of
random numbers, so they depend neither on tiles nor on the device, and differ for other features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._tiles import tile_rows

# Steps between rows, columns and sides: odd, so that all products differ; from SplitMix64 and
# MurmurHash3, in two's complement.
ROW, COLUMN, SIDE = -0x3B314601E57A13AD, -0x61C8864680B583EB, -0x00AE502812AA7333
DRAWN = 2  # added to the side, for the order of neighbours after their choice

Candidates = tuple[Tensor, Tensor]  # values and columns of the largest entries of some rows


class Ranking(NamedTuple):
    """For row i, v_i . v_j + o_j is larger the nearer row j; equal up to `rounding` is a tie."""

    v: Tensor  # (n, d)
    offset: Tensor  # (n,)
    rounding: Tensor  # ()


def draw_lots(ranking: Ranking, best: Candidates, side: int) -> Candidates:
    """The k nearest rows, where the choice and the order of equally near rows are random.

    `best` holds the k + 1 largest values of each row, sorted, and their columns.
    """
    values, columns = (entries.clone() for entries in best)  # (n, k + 1)
    k = values.shape[1] - 1
    tied = values[:, :-1] - values[:, 1:] <= ranking.rounding  # (n, k)
    for rows in torch.split(tied[:, -1].nonzero()[:, 0], tile_rows(32 * len(values))):
        values[rows, :k], columns[rows, :k] = choose(ranking, rows, k, side)
    rows = tied.any(1).nonzero()[:, 0]
    listed = values[rows, :k], columns[rows, :k]
    values[rows, :k], columns[rows, :k] = shuffle(ranking, rows, listed, side)
    return values[:, :k], columns[:, :k]


def choose(ranking: Ranking, rows: Tensor, k: int, side: int) -> Candidates:
    """All rows that are nearer than the k-th neighbour, and a choice of those as near as it."""
    v, offset, rounding = ranking
    S = v[rows] @ v.mT + offset  # (t, n)
    S.scatter_(1, rows[:, None], -torch.inf)
    kth = S.topk(k, -1).values[:, -1:]
    nearer, reached = kth + rounding < S, kth - rounding <= S
    every = torch.arange(len(v), device=rows.device)[None]
    lots = hashed_lots(rows, every, (mixed(COLUMN * every) * reached).sum(1), side).float()
    lots = lots.masked_fill_(nearer, torch.inf).masked_fill_(~reached, -torch.inf)
    columns = lots.topk(k, -1).indices
    values = torch.where(nearer.gather(1, columns), S.gather(1, columns), kth)
    values, order = values.sort(-1, descending=True)
    return values, columns.gather(1, order)


def shuffle(ranking: Ranking, rows: Tensor, listed: Candidates, side: int) -> Candidates:
    """The lists of neighbours of some rows, with every run of equal values in random order."""
    values, columns = listed  # (t, k)
    run = (values[:, :-1] - values[:, 1:] > ranking.rounding).cumsum(1)  # (t, k - 1)
    lots = hashed_lots(rows, columns, mixed(COLUMN * columns).sum(1), side + DRAWN)
    order = (2**24 * torch.nn.functional.pad(run, (1, 0)) + lots).argsort(-1)
    return values.gather(1, order), columns.gather(1, order)


def hashed_lots(rows: Tensor, columns: Tensor, tie: Tensor, side: int) -> Tensor:
    """Integers of 24 bits for places (rows, columns), (t, m), that no other tie or side shares."""
    start = mixed(tie + ROW * rows + SIDE * side)[:, None]
    return mixed(start + COLUMN * columns) >> 40


def mixed(z: Tensor) -> Tensor:
    """Finaliser of SplitMix64: every bit of the result depends on every bit of z."""
    z = (z ^ (z >> 30)) * -0x40A7B892E31B1A47
    z = (z ^ (z >> 27)) * -0x6B2FB644ECCEEE15
    return z ^ (z >> 31)
