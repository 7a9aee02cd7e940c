"""Tiles of pairwise distances, and membership among the k nearest when distances are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import center, unit_rows
from structure_reg._precision import full_precision, result_dtype
from structure_reg.evaluation.ranks import tiles
from structure_reg.evaluation.ties import share_of_first

METRICS = ("euclidean", "cosine")
# Largest difference, in units of eps, between unit rows of two multiples of one row.
ROW = 4


class Distances(NamedTuple):
    """Half the squared distances from a block of rows to all rows; two that differ by less tie."""

    D: Tensor  # (b, n)
    product: Tensor  # () rounding of the products
    row: float  # length of the rounding errors of a row

    def rounding(self, D: Tensor) -> Tensor:
        """Largest difference from these entries of D that may be rounding alone.

        An error of e in a row changes a distance r by e, and so r² / 2 by r e + e² / 2.
        """
        r = (2 * D.masked_fill(D.isinf(), 0).clamp_min(0)).sqrt()
        return self.product + self.row * r + self.row**2 / 2


def distance_tiles(x: Tensor, y: Tensor, metric: str) -> Iterator[tuple[Distances, Distances]]:
    """Yield both sides' distances from one block of rows to all rows.

    Distances are computed in float64, because a nearest neighbour may be closer than the rounding
    error of a float32 Gram product. The distance of a row to itself is infinite.
    """
    sides = [distance_factors(x, metric), distance_factors(y, metric)]
    for rows in tiles(len(x), 8 * 8 * len(x)):
        tile_x, tile_y = (distance_tile(side, rows) for side in sides)
        yield tile_x, tile_y


class DistanceFactors(NamedTuple):
    """Half the squared distance of rows i and j is o_i + o_j - w_i . w_j."""

    w: Tensor  # (n, d)
    o: Tensor  # (n,)
    row: float


def distance_tile(side: DistanceFactors, rows: slice) -> Distances:
    w, o, row = side
    with full_precision(w.device):
        D = torch.addmm(o, w[rows], w.mT, alpha=-1)  # (b, n)
    D = D.add_(o[rows, None])
    D[:, rows].fill_diagonal_(torch.inf)
    return Distances(D, 32 * torch.finfo(w.dtype).eps * o.amax(), row)


def distance_factors(x: Tensor, metric: str) -> DistanceFactors:
    """The rows, centred; for the cosine the unit rows, whose distances have the same order."""
    if metric == "euclidean":
        w = center(x.double())
        return DistanceFactors(w, w.square().sum(-1) / 2, 0.0)
    w = center(unit_rows(x.double()))
    zero = ~x.any(-1)  # a zero row has no direction: its cosine to every other row is 0
    return DistanceFactors(
        w, (w.square().sum(-1) + zero) / 2, ROW * torch.finfo(result_dtype(x)).eps
    )


def memberships(distances: Distances, k: int) -> Tensor:
    """Return the probability of each column to be among the k nearest: 0 or 1 unless it ties."""
    distance = distances.D
    kth = distance.kthvalue(k, 1, keepdim=True).values  # (b, 1)
    rounding = distances.rounding(kth)
    first, last = kth - rounding, kth + rounding
    nearer, reached = distance < first, distance <= last
    above = nearer.sum(1, keepdim=True).double()
    share = share_of_first(torch.tensor(k), above, reached.sum(1, keepdim=True) - above)
    return torch.where(nearer, 1, torch.where(reached, share, 0))  # (b, n)
