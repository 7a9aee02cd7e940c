"""Directions that the columns of features span, and the angles between those of two sides."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import center, finite_or_zero, unit_rows

# Errors that a column may contain, in machine epsilons of its length: those of its own rounding and
# of the float32 products that it comes from.
ROUNDING = 32


class Directions(NamedTuple):
    """An orthonormal basis of the centred columns, in float64.

    Directions that are dropped remain as zero columns, so that no shape depends on a value.
    """

    centered: Tensor  # (n, d)
    U: Tensor  # (n, m) orthonormal columns, then zero columns
    rank: Tensor  # (): number of nonzero columns


def column_space(x: Tensor) -> Directions:
    """All directions that the dtype of x can resolve, whatever the units of the columns.

    Rounding leaves errors in proportion to a column. In columns of unit length, all errors have one
    size, so that one threshold separates directions from rounding.
    """
    n, d = x.shape
    noise = ROUNDING * torch.finfo(x.dtype).eps * (1 + math.sqrt(d / n))
    x = finite_or_zero(x).double()
    columns = unit_rows(x.mT).mT  # before centring, because a large mean has large errors
    U, scales, _ = torch.linalg.svd(center(columns - columns[0]), full_matrices=False)
    kept = scales > noise
    return Directions(center(x - x[0]), U * kept, kept.sum())


def leading_directions(X: Directions, keep: float | int) -> Directions:
    """The first `keep` principal directions, or the fewest that hold a share `keep` of variance."""
    A, scales, _ = torch.linalg.svd(X.U.mT @ X.centered, full_matrices=False)
    leading = torch.arange(len(scales), device=scales.device) < X.rank
    if isinstance(keep, int):
        leading[keep:] = False
    else:
        variance = (scales / scales[0]).square() * leading
        leading &= variance.cumsum(0) - variance < keep * variance.sum()
    return Directions(X.centered, X.U @ A * leading, leading.sum())


def canonical_correlations(X: Directions, Y: Directions) -> tuple[Tensor, Tensor]:
    """Correlations, (m,), descending and then zero, and the canonical variates of x, (n, m)."""
    A, rho, _ = torch.linalg.svd(X.U.mT @ Y.U, full_matrices=False)
    return rho.clamp_max(1), X.U @ A
