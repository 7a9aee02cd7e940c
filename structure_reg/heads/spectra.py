"""The spectra of both sides, from moments or from the rows, and the directions whitened by them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.heads.columns import (
    EPS,
    ScaledMoments,
    Scaling,
    column_scaling,
    scaled_moments,
)
from structure_reg.heads.moments import PairMoments, PairRows, moments_of_rows

# Moments carry squares: variances below this share of the largest one lose half of their digits.
SMALLEST_VARIANCE = 1e-7


class Spectrum(NamedTuple):
    """Singular values and right singular vectors of scaled columns Z = U diag(s) Vᵀ."""

    scaling: Scaling
    s: Tensor  # (r,)
    V: Tensor  # (d, r)
    variance: Tensor  # () n times the mean variance of the columns that vary


class PairSpectra(NamedTuple):
    """What closed forms know of n pairs."""

    n: int
    x: Spectrum
    y: Spectrum
    UU: Tensor  # (r_x, r_y) products of the left singular vectors of x and y


def pair_spectra(
    function: str,
    pairs: PairRows | PairMoments,
    ridge: tuple[float, float],
    standardise: bool,
) -> PairSpectra:
    """Take the moments of many pairs, and the rows of few, or where moments lose digits."""
    if isinstance(pairs, PairMoments):
        return spectra_of_moments(scaled_moments(pairs, standardise))
    if outnumber_columns(pairs):
        moments = moments_of_rows(function, pairs)
        p = spectra_of_moments(scaled_moments(moments, standardise))
        if is_well_posed(p.x, ridge[0]) and is_well_posed(p.y, ridge[1]):
            return p
    return spectra_of_rows(function, *pairs, standardise)


def outnumber_columns(pairs: PairRows) -> bool:
    return len(pairs.x) > max(pairs.x.shape[1], pairs.y.shape[1])


def is_well_posed(S: Spectrum, ridge: float) -> bool:
    """Whether every variance, with its ridge, is far above the rounding of the largest one."""
    least = S.s[-1].square() + ridge * S.variance
    return bool(least > SMALLEST_VARIANCE * S.s[0].square())


def spectra_of_rows(function: str, x: Tensor, y: Tensor, standardise: bool) -> PairSpectra:
    """Thin SVDs of the rows: exact, and for wide features the cost grows with the rows alone."""
    U, S = spectrum_of_rows(x, column_scaling(function, "x", x, standardise=standardise))
    T, R = spectrum_of_rows(y, column_scaling(function, "y", y, standardise=standardise))
    return PairSpectra(len(x), S, R, U.mT @ T)


def spectrum_of_rows(x: Tensor, scaling: Scaling) -> tuple[Tensor, Spectrum]:
    """Left singular vectors, (n, r), and the rest."""
    Z = scaling(x)
    U, s, Vh = torch.linalg.svd(Z, full_matrices=False)
    # Singular values at the level of rounding count as zero.
    s = torch.where(s > max(Z.shape) * EPS * s[0], s, 0)
    return U, Spectrum(scaling, s, Vh.mT, mean_variance(s, scaling))


def spectra_of_few_rows(function: str, x: Tensor, y: Tensor, standardise: bool) -> PairSpectra:
    """The same from symmetric eigenproblems: faster, without the smallest singular values."""
    U, S = spectrum_of_few_rows(x, column_scaling(function, "x", x, standardise=standardise))
    T, R = spectrum_of_few_rows(y, column_scaling(function, "y", y, standardise=standardise))
    return PairSpectra(len(x), S, R, U.mT @ T)


def spectrum_of_few_rows(x: Tensor, scaling: Scaling) -> tuple[Tensor, Spectrum]:
    """Left singular vectors, (n, r), and the rest, r = min(n, d)."""
    Z = scaling(x)
    if Z.shape[1] < Z.shape[0]:
        S = spectrum_of_moments(Z.mT @ Z, scaling)
        return Z @ S.V * inverse(S.s), S
    T = spectrum_of_moments(Z @ Z.mT, scaling)
    return T.V, T._replace(V=Z.mT @ T.V * inverse(T.s))


def spectra_of_moments(m: ScaledMoments) -> PairSpectra:
    S, T = spectrum_of_moments(m.C_xx, m.x), spectrum_of_moments(m.C_yy, m.y)
    UU = inverse(S.s)[:, None] * (S.V.mT @ m.C_xy @ T.V) * inverse(T.s)
    return PairSpectra(m.n, S, T, UU)


def spectrum_of_moments(C: Tensor, scaling: Scaling) -> Spectrum:
    variances, V = torch.linalg.eigh(C)
    variances, V = variances.flip(0), V.flip(1)  # decreasing
    zero = variances <= len(C) * EPS * variances[0]
    s = torch.where(zero, 0, variances.clamp_min(0).sqrt())
    return Spectrum(scaling, s, V, mean_variance(s, scaling))


def mean_variance(s: Tensor, scaling: Scaling) -> Tensor:
    return s.square().sum() / (scaling.factor > 0).sum().clamp_min(1)


def inverse(s: Tensor) -> Tensor:
    """1 / s, and 0 where s is 0."""
    return torch.where(s > 0, 1 / torch.where(s > 0, s, 1), 0)


def whitening(S: Spectrum, ridge: float) -> Tensor:
    """Return 1 / sqrt(s² + ridge times the mean variance), and 0 where s is 0."""
    variance = S.s.square() + ridge * S.variance
    return torch.where(S.s > 0, torch.where(S.s > 0, variance, 1).rsqrt(), 0)  # (r,)


def whitened_directions(
    p: PairSpectra, ridge: tuple[float, float], dim: int
) -> tuple[Tensor, Tensor, Tensor]:
    """C^{-1/2} A and C^{-1/2} B of a canonical correlation analysis, and its correlations."""
    h_x, h_y = whitening(p.x, ridge[0]), whitening(p.y, ridge[1])
    K = (h_x * p.x.s)[:, None] * p.UU * (h_y * p.y.s)  # (r_x, r_y)
    A, rho, B = paired_directions(K, dim)
    scale = p.n**0.5  # s belongs to sums over the pairs, covariances to means
    W_x = scale * p.x.V @ (h_x[:, None] * A)  # (d_x, dim)
    W_y = scale * p.y.V @ (h_y[:, None] * B)  # (d_y, dim)
    return W_x, W_y, rho.clamp(max=1)


def paired_directions(M: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first singular vectors and values of M, zero beyond its rank."""
    U, s, Vh = torch.linalg.svd(M, full_matrices=False)
    nonzero = s[:dim] > max(M.shape) * EPS * s[0]
    return U[:, :dim] * nonzero, s[:dim] * nonzero, Vh[:dim].mT * nonzero
