"""How much to shrink a regression, by leaving out one pair at a time in closed form."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from structure_reg.heads.columns import Scaling
from structure_reg.heads.moments import PairRows
from structure_reg.heads.spectra import Spectrum, inverse

RIDGES = tuple(10 ** (i / 4) for i in range(-12, 13))  # 0.001 to 1000
ROWS = 512  # that are left out: errors of as many tell penalties apart


def leave_one_out_ridge(S: Spectrum, VXY: Tensor, y: Scaling, pairs: PairRows) -> float:
    """Return the ridge with the smallest squared error on pairs that the fit has not seen."""
    error = leave_one_out_error(S, VXY, y, pairs)
    # Errors of few pairs can have several minima, and cost little.
    return min(RIDGES, key=error) if len(pairs.x) <= ROWS else from_coarse_to_fine(error)


def from_coarse_to_fine(error: Callable[[float], float]) -> float:
    """Compare ridges a factor 10 apart, then on both sides of the best: at most 11 of 25 errors."""
    error = cache(error)
    i = min(range(0, len(RIDGES), 4), key=lambda j: error(RIDGES[j]))
    for step in (2, 1):
        near = range(max(i - step, 0), min(i + step + 1, len(RIDGES)), step)
        i = min(near, key=lambda j: error(RIDGES[j]))
    return RIDGES[i]


def leave_one_out_error(
    S: Spectrum, VXY: Tensor, y: Scaling, pairs: PairRows
) -> Callable[[float], float]:
    r"""Return the squared error of each ridge, of at most 512 pairs.

    .. math:: e_i = \frac{\tilde y_i - u_i D U^\top \tilde Y}{1 - h_i}, \qquad
              h_i = \tfrac1n + u_i D u_i^\top, \qquad D = \frac{s^2}{s^2 + n \lambda}

    with the rows u of the left singular vectors: exact, without a second fit. Allen, "The
    Relationship Between Variable Selection and Data Augmentation and a Method for Prediction",
    Technometrics 1974.
    """
    n = len(pairs.x)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(n, generator=generator)[:ROWS].to(pairs.x.device)
    U = S.scaling(pairs.x[rows]) @ S.V * inverse(S.s)  # (m, r)
    UY = inverse(S.s)[:, None] * VXY  # (r, d_y)
    Y = y(pairs.y[rows])  # (m, d_y)

    def error(ridge: float) -> float:
        D = shares(S, ridge)
        h = 1 / n + (U.square() * D).sum(1, keepdim=True)  # (m, 1)
        return float(((Y - U * D @ UY) / (1 - h).clamp_min(1e-12)).square().sum())

    return error


def generalised_ridge(S: Spectrum, VXY: Tensor, T: Tensor, n: int) -> float:
    r"""Return the ridge with the smallest generalised cross-validation error, from moments alone.

    .. math:: \frac{\|\tilde Y - \hat Y\|^2}{(1 - \mathrm{df} / n)^2}, \qquad
              \mathrm{df} = 1 + \sum_k D_k

    Golub, Heath and Wahba, "Generalized Cross-Validation as a Method for Choosing a Good Ridge
    Parameter", Technometrics 1979. T is the sum of squares of the targets.
    """
    explained = (inverse(S.s)[:, None] * VXY).square().sum(1)  # (r,)

    def error(ridge: float) -> float:
        D = shares(S, ridge)
        residual = T - (explained * (2 * D - D.square())).sum()
        return float(residual / (1 - (1 + D.sum()) / n).clamp_min(1e-12).square())

    return min(RIDGES, key=error)


def shares(S: Spectrum, ridge: float) -> Tensor:
    """What a ridge leaves of each direction, s² / (s² + nλ)."""
    squares = S.s.square()
    return squares / (squares + ridge * S.variance).clamp_min(torch.finfo(torch.float64).tiny)
