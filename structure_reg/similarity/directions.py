"""Principal directions of features, and the angles between those of two feature sets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import center_and_scale, finite_or_zero


class Directions(NamedTuple):
    """Singular value decomposition of centred features, in float64.

    Directions that are dropped remain as zero columns, so that no shape depends on a value.
    """

    centered: Tensor  # (n, d)
    U: Tensor  # (n, m) orthonormal columns, then zero columns
    scales: Tensor  # (m,) singular values, descending
    rank: Tensor  # (): number of nonzero columns


def principal_directions(x: Tensor) -> Directions:
    """All directions that the dtype of x can resolve."""
    centered = finite_or_zero(center_and_scale(x)).double()
    U, scales, _ = torch.linalg.svd(centered, full_matrices=False)
    smallest = scales[0] * max(x.shape) * torch.finfo(x.dtype).eps
    return keep_columns(centered, U, scales, scales > smallest)


def leading_directions(X: Directions, keep: float | int) -> Directions:
    """The first `keep` directions, or the fewest that hold a share `keep` of the variance."""
    if isinstance(keep, int):
        leading = torch.arange(len(X.scales), device=X.scales.device) < keep
    else:
        variance = X.scales.square()
        before = variance.cumsum(0) - variance
        leading = before < keep * variance.sum()
    return keep_columns(X.centered, X.U, X.scales, leading & (X.U != 0).any(0))


def keep_columns(centered: Tensor, U: Tensor, scales: Tensor, kept: Tensor) -> Directions:
    return Directions(centered, U * kept, scales, kept.sum())


def canonical_correlations(X: Directions, Y: Directions) -> tuple[Tensor, Tensor]:
    """Correlations, (m,), descending and then zero, and the canonical variates of x, (n, m)."""
    A, rho, _ = torch.linalg.svd(X.U.mT @ Y.U, full_matrices=False)
    return rho.clamp_max(1), X.U @ A
