"""Tiles of pairwise distances, and membership among the k nearest when distances are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import center, unit_deviations, unit_rows
from structure_reg._precision import full_precision
from structure_reg.evaluation.ranks import tiles
from structure_reg.evaluation.ties import share_of_first

METRICS = ("euclidean", "cosine")


def distance_tiles(
    x: Tensor, y: Tensor, metric: str
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """Yield both sides' distances from one block of rows to all rows, with their rounding errors.

    Distances are computed in float64, because a nearest neighbour may be closer than the rounding
    error of a float32 Gram product. They are shifted by a constant per row, and the distance of a
    row to itself is infinite.
    """
    sides = [distance_factors(x, metric), distance_factors(y, metric)]
    for rows in tiles(len(x), 8 * 8 * len(x)):
        tile_x, tile_y = (distance_tile(side, rows) for side in sides)
        yield tile_x, tile_y


class DistanceFactors(NamedTuple):
    """For row i, o_j - q_i · w_j is in the order of the distances to the rows j."""

    q: Tensor  # (n, d)
    w: Tensor  # (n, d)
    o: Tensor  # (n,)
    rounding: Tensor  # ()


def distance_tile(side: DistanceFactors, rows: slice) -> tuple[Tensor, Tensor]:
    with full_precision(side.q.device):
        D = torch.addmm(side.o, side.q[rows], side.w.mT, alpha=-1)  # (b, n)
    D[:, rows].fill_diagonal_(torch.inf)
    return D, side.rounding


def distance_factors(x: Tensor, metric: str) -> DistanceFactors:
    if metric == "cosine":
        q = unit_rows(x.double())
        w = unit_deviations(q)
        o = w.new_zeros(len(x))
    else:
        q = w = center(x.double())
        o = w.square().sum(-1) / 2
    eps = torch.finfo(torch.float64).eps
    return DistanceFactors(q, w, o, 16 * eps * w.square().sum(-1).amax())


def memberships(distance: Tensor, k: int, rounding: Tensor) -> Tensor:
    """Return the probability of each column to be among the k nearest: 0 or 1 unless it ties."""
    kth = distance.kthvalue(k, 1, keepdim=True).values  # (b, 1)
    first, last = kth - rounding, kth + rounding
    nearer, reached = distance < first, distance <= last
    above = nearer.sum(1, keepdim=True).double()
    share = share_of_first(torch.tensor(k), above, reached.sum(1, keepdim=True) - above)
    return torch.where(nearer, 1, torch.where(reached, share, 0))  # (b, n)
