"""What every closed form starts from: centred columns in float64, and their thin SVD."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.heads._checks import no_finite_features

EPS = torch.finfo(torch.float64).eps


class Columns(NamedTuple):
    """Features as a closed form sees them: Z = (x - mean) * factor."""

    Z: Tensor  # (n, d) float64
    mean: Tensor  # (d,)
    factor: Tensor  # (d,) 1 over the standard deviation, or 1; 0 where a column is constant


def columns(function: str, name: str, x: Tensor, *, standardise: bool) -> Columns:
    """Centre the columns, and give them unit variance if asked."""
    x = x.detach().double()
    mean = x.mean(0)
    if not mean.isfinite().all():
        raise no_finite_features(function, name)
    Z = x - mean
    deviation = Z.square().mean(0).sqrt()
    # A constant column leaves the rounding of its mean: divided by itself that would be noise.
    constant = deviation <= len(x) * EPS * x.abs().amax(0)
    scale = deviation if standardise else torch.ones_like(deviation)
    factor = torch.where(constant, 0, 1 / torch.where(constant, 1, scale))
    return Columns(Z * factor, mean, factor)


class Spectrum(NamedTuple):
    """The thin SVD of Z = U diag(s) Vᵀ, so that wide features cost what their rows do."""

    U: Tensor  # (n, r)
    s: Tensor  # (r,)
    V: Tensor  # (d, r)
    variance: Tensor  # () n times the mean variance of the columns that vary


def spectrum(X: Columns) -> Spectrum:
    Z, varying = X.Z, (X.factor > 0).sum()
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    # Singular values of rounding alone are none.
    s = torch.where(s > max(Z.shape) * EPS * s[0], s, 0)
    return Spectrum(U, s, Vh.mT, s.square().sum() / varying.clamp_min(1))


def whitening(S: Spectrum, ridge: float) -> Tensor:
    """1 / sqrt(s² + ridge times the mean variance), 0 where there is no variance."""
    variance = S.s.square() + ridge * S.variance
    return torch.where(S.s > 0, torch.where(S.s > 0, variance, 1).rsqrt(), 0)  # (r,)


def paired_directions(M: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first singular vectors and values of M; zero beyond its rank, where any would do."""
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    some = s[:dim] > max(M.shape) * EPS * s[0]
    return U[:, :dim] * some, s[:dim] * some, Vh[:dim].mT * some
