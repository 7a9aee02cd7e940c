"""Centred and scaled columns in float64, which every closed form starts from."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._tiles import slices, tile_rows
from structure_reg.heads._checks import no_finite_features
from structure_reg.heads.moments import PairMoments

EPS = torch.finfo(torch.float64).eps


class Scaling(NamedTuple):
    """Columns are scaled as z = (x - mean) * factor."""

    mean: Tensor  # (d,) float64
    factor: Tensor  # (d,) 1 over the standard deviation, or 1; 0 where a column is constant

    def __call__(self, x: Tensor) -> Tensor:
        """Scale rows, in float64."""
        return (x.detach().double() - self.mean) * self.factor


def column_scaling(function: str, name: str, x: Tensor, *, standardise: bool) -> Scaling:
    """Centre the columns, and scale them to unit variance if `standardise`."""
    blocks = slices(x.shape[1], tile_rows(3 * 8 * len(x)))
    parts = [mean_and_variance(x.detach()[:, columns].double()) for columns in blocks]
    mean, variance = (torch.cat(part) for part in zip(*parts, strict=True))
    if not mean.isfinite().all():
        raise no_finite_features(function, name)
    return scaling(len(x), mean, variance, standardise)


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    mean = x.mean(0)
    return mean, (x - mean).square().mean(0)


def scaling(n: int, mean: Tensor, variance: Tensor, standardise: bool) -> Scaling:
    deviation = variance.sqrt()
    # Centring a constant column leaves rounding errors, which scaling would turn into noise.
    constant = deviation <= n * EPS * (mean.abs() + deviation)
    scale = deviation if standardise else torch.ones_like(deviation)
    return Scaling(mean, torch.where(constant, 0, 1 / torch.where(constant, 1, scale)))


class ScaledMoments(NamedTuple):
    """Moments of scaled columns, of n pairs."""

    n: int
    x: Scaling
    y: Scaling
    C_xx: Tensor  # (d_x, d_x) n times the covariance of the scaled columns
    C_xy: Tensor  # (d_x, d_y)
    C_yy: Tensor  # (d_y, d_y)


def scaled_moments(m: PairMoments, standardise: bool) -> ScaledMoments:
    M_xx, M_yy = m.M_xx, m.M_yy  # copies, which become those of the scaled columns
    x = scaling(m.n, m.mean_x, M_xx.diagonal() / m.n, standardise)
    y = scaling(m.n, m.mean_y, M_yy.diagonal() / m.n, standardise)
    f, g = x.factor[:, None], y.factor[:, None]
    C_xx, C_yy = M_xx.mul_(f).mul_(f.mT), M_yy.mul_(g).mul_(g.mT)
    return ScaledMoments(m.n, x, y, C_xx, (f * m.M_xy).mul_(g.mT), C_yy)
