"""Tiles of distances between all rows, and who is among the k nearest when some are equal."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg._gram import center, unit_rows
from structure_reg._precision import full_precision
from structure_reg.evaluation.ranks import tiles
from structure_reg.evaluation.ties import share_of_first

METRICS = ("euclidean", "cosine")


def distance_tiles(
    x: Tensor, y: Tensor, metric: str
) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
    """For the same block of rows, the distances to all rows on both sides, and their rounding.

    In float64: a nearest neighbour may be nearer than the rounding of a float32 Gram product.
    A row's distance to itself is infinite. Distances are less a constant of each row.
    """
    sides = [nearness(x, metric), nearness(y, metric)]
    for rows in tiles(len(x), 8 * 8 * len(x)):
        found = []
        for queries, others, offset, rounding in sides:
            with full_precision(x.device):
                D = torch.addmm(offset, queries[rows], others.mT, alpha=-1)  # (b, n)
            D[:, rows].fill_diagonal_(torch.inf)
            found.append((D, rounding))
        yield found[0], found[1]


def nearness(x: Tensor, metric: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, rows and offset o such that o_j - q_i · w_j orders the others of i by distance."""
    if metric == "cosine":
        queries = unit_rows(x.double())
        others = center(queries)
        offset = others.new_zeros(len(x))
    else:
        queries = others = center(x.double())
        offset = others.square().sum(-1) / 2  # (n,)
    eps = torch.finfo(torch.float64).eps
    return queries, others, offset, 16 * eps * others.square().sum(-1).amax()


def memberships(distance: Tensor, k: int, rounding: Tensor) -> Tensor:
    """Probability that each column is among the k nearest: 1, 0, or its share of the last tie."""
    kth = distance.kthvalue(k, 1, keepdim=True).values  # (b, 1)
    first, last = kth - rounding, kth + rounding
    nearer, reached = distance < first, distance <= last
    above = nearer.sum(1, keepdim=True).double()
    share = share_of_first(torch.tensor(k), above, reached.sum(1, keepdim=True) - above)
    return torch.where(nearer, 1, torch.where(reached, share, 0))  # (b, n)
