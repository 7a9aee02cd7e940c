"""The start of every closed form: centred columns in float64, and their thin SVD."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.heads._checks import no_finite_features

EPS = torch.finfo(torch.float64).eps


class Columns(NamedTuple):
    """Centred and scaled features: Z = (x - mean) * factor."""

    Z: Tensor  # (n, d) float64
    mean: Tensor  # (d,)
    factor: Tensor  # (d,) 1 over the standard deviation, or 1; 0 where a column is constant


def columns(function: str, name: str, x: Tensor, *, standardise: bool) -> Columns:
    """Centre the columns, and scale them to unit variance if `standardise`."""
    x = x.detach().double()
    mean = x.mean(0)
    if not mean.isfinite().all():
        raise no_finite_features(function, name)
    Z = x - mean
    deviation = Z.square().mean(0).sqrt()
    # Centring a constant column leaves rounding errors, which scaling would turn into noise.
    constant = deviation <= len(x) * EPS * x.abs().amax(0)
    scale = deviation if standardise else torch.ones_like(deviation)
    factor = torch.where(constant, 0, 1 / torch.where(constant, 1, scale))
    return Columns(Z * factor, mean, factor)


class Spectrum(NamedTuple):
    """The thin SVD Z = U diag(s) Vᵀ, whose cost for wide features grows with the rows alone."""

    U: Tensor  # (n, r)
    s: Tensor  # (r,)
    V: Tensor  # (d, r)
    variance: Tensor  # () n times the mean variance of the columns that vary


def spectrum(X: Columns) -> Spectrum:
    Z, varying = X.Z, (X.factor > 0).sum()
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    # Singular values at the level of rounding count as zero.
    s = torch.where(s > max(Z.shape) * EPS * s[0], s, 0)
    return Spectrum(U, s, Vh.mT, s.square().sum() / varying.clamp_min(1))


def whitening(S: Spectrum, ridge: float) -> Tensor:
    """Return 1 / sqrt(s² + ridge times the mean variance), and 0 where s is 0."""
    variance = S.s.square() + ridge * S.variance
    return torch.where(S.s > 0, torch.where(S.s > 0, variance, 1).rsqrt(), 0)  # (r,)


def paired_directions(M: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first singular vectors and values of M, zero beyond its rank."""
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    nonzero = s[:dim] > max(M.shape) * EPS * s[0]
    return U[:, :dim] * nonzero, s[:dim] * nonzero, Vh[:dim].mT * nonzero
