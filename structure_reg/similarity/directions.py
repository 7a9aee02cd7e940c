"""Principal directions of features, and the angles between those of two sets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import center_and_scale, finite_or_zero


class Directions(NamedTuple):
    """Centred features by their singular value decomposition, in float64.

    Directions that are not counted stay as zero columns: a shape does not depend on a value.
    """

    centered: Tensor  # (n, d)
    U: Tensor  # (n, m) orthonormal columns, then zero ones
    scales: Tensor  # (m,) singular values, descending
    rank: Tensor  # (): columns that are not zero


def directions(x: Tensor) -> Directions:
    """All directions that x has at the resolution of its dtype."""
    centered = finite_or_zero(center_and_scale(x)).double()
    U, scales, _ = torch.linalg.svd(centered, full_matrices=False)
    smallest = scales[0] * max(x.shape) * torch.finfo(x.dtype).eps
    return counted(centered, U, scales, scales > smallest)


def leading(X: Directions, keep: float | int) -> Directions:
    """The first `keep` of them, or the fewest with a share `keep` of the variance."""
    if isinstance(keep, int):
        chosen = torch.arange(len(X.scales), device=X.scales.device) < keep
    else:
        variance = X.scales.square()
        before = variance.cumsum(0) - variance
        chosen = before < keep * variance.sum()
    return counted(X.centered, X.U, X.scales, chosen & (X.U != 0).any(0))


def counted(centered: Tensor, U: Tensor, scales: Tensor, chosen: Tensor) -> Directions:
    return Directions(centered, U * chosen, scales, chosen.sum())


def canonical(X: Directions, Y: Directions) -> tuple[Tensor, Tensor]:
    """Correlations, (m,) descending and then zeros, and the variates of x, (n, m)."""
    A, rho, _ = torch.linalg.svd(X.U.mT @ Y.U, full_matrices=False)
    return rho.clamp_max(1), X.U @ A
