"""Canonical correlation analysis as a pair of linear heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array
from structure_reg._checks import check_flag
from structure_reg._precision import needs_float64
from structure_reg.heads._checks import (
    check_dim,
    check_number_or_none,
    check_ridge,
    no_held_out_pairs,
)
from structure_reg.heads.cca_selection import select_cca
from structure_reg.heads.columns import Scaling
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import PairMoments, PairRows, as_pairs, check_finite_pairs
from structure_reg.heads.spectra import pair_spectra, whitened_directions


@needs_float64
@torch.no_grad()
def fit_cca(
    x: Array | PairMoments,
    y: Array | None = None,
    *,
    dim: int | None = None,
    ridge: float | tuple[float, float] | None = None,
    power: float | None = None,
    standardise: bool = True,
) -> tuple[LinearHead, LinearHead]:
    r"""Project both sides onto the directions in which they correlate most.

    .. math::
        C_{xx}^{-1/2} C_{xy} C_{yy}^{-1/2} = A \operatorname{diag}(\rho) B^\top, \qquad
        f_x(x) = \tilde x \, C_{xx}^{-1/2} A \operatorname{diag}(\rho)^{p/2}

    and likewise for y with B. Columns are centred, covariances are
    :math:`C_{xy} = \tilde X^\top \tilde Y / n`, and the diagonals of :math:`C_{xx}` and
    :math:`C_{yy}` carry a ridge relative to the mean variance of their columns.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2. n may be smaller than the widths. Instead of both,
        :class:`PairMoments` of the pairs as `x` alone.
    dim : int, optional
        Number of directions, at most min(n - 1, d_x, d_y), which is the default.
    ridge : float or tuple of two floats, optional
        Relative ridge, at least 0, for both sides or for x and y in turn. Without a ridge, and with
        n near the widths, all correlations are close to 1 and carry no information. None:
        :func:`select_cca` chooses `ridge` and `power` on held-out pairs, if there are at least 8.
        :class:`PairMoments` keep no pairs to hold out and need a number.
    power : float, optional
        Exponent p >= 0 of the correlations. Larger values give strongly correlated directions more
        weight in the cosine. None: chosen with the ridge, or 0 if the ridge is given.
    standardise : bool
        Whether to scale columns to unit variance first. Constant columns are ignored in any case.

    Returns
    -------
    tuple of (LinearHead, LinearHead)
        Heads for x and for y with `dim` outputs, in decreasing order of correlation. The score of a
        pair is the cosine of the two outputs. Directions beyond the rank of the features are zero.
        Fitted in float64 on the device of `x`, and returned in float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, if an option is out of range, or if a
        feature is not finite.

    See Also
    --------
    select_cca : Choose ridges and power on held-out pairs.
    fit_csa : Weights the score by the correlations, instead of the features.

    References
    ----------
    Hotelling, "Relations Between Two Sets of Variates", Biometrika 1936; with a ridge: Vinod,
    "Canonical ridge and econometrics of joint production", Journal of Econometrics 1976.

    Examples
    --------
    Without a ridge, CCA is invariant to any invertible linear map of one side:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 8, generator=g, dtype=torch.float64)
    >>> y = x[:, :6] + torch.randn(200, 6, generator=g, dtype=torch.float64)
    >>> maps = torch.randn(8, 8, generator=g, dtype=torch.float64)
    >>> head, _ = fit_cca(x, y, ridge=0.0)
    >>> head_of_mapped, _ = fit_cca(x @ maps, y, ridge=0.0)
    >>> torch.allclose(head(x).abs(), head_of_mapped(x @ maps).abs())
    True
    """
    pairs = as_pairs("fit_cca", x, y)
    standardise = check_flag("fit_cca", "standardise", standardise)
    check_ridge("fit_cca", ridge)
    power = check_number_or_none("fit_cca", "power", power, least=0.0)
    chosen = shrinkage("fit_cca", pairs, ridge, standardise)
    power = chosen.power if power is None else power
    c = canonical_directions("fit_cca", pairs, dim, chosen.ridge, standardise)
    weight = c.rho.pow(power / 2)
    return (
        linear_head(c.W_x * weight, *c.x, pairs.dtype),
        linear_head(c.W_y * weight, *c.y, pairs.dtype),
    )


class Shrinkage(NamedTuple):
    """Ridges of x and y, and the power of the correlations."""

    ridge: tuple[float, float]
    power: float


FEWEST = 8  # pairs that can be held out in turn
OF_FEWER = Shrinkage((10.0, 10.0), 1.0)


def shrinkage(
    function: str,
    pairs: PairRows | PairMoments,
    ridge: float | tuple[float, float] | None,
    standardise: bool,
) -> Shrinkage:
    """What was given, without a power, or what held-out pairs choose."""
    if ridge is not None:
        return Shrinkage(ridge if isinstance(ridge, tuple) else (ridge, ridge), 0.0)
    if isinstance(pairs, PairMoments):
        raise no_held_out_pairs(function)
    check_finite_pairs(function, pairs)
    if len(pairs.x) < FEWEST:
        return OF_FEWER
    selection = select_cca(*pairs, standardise=standardise)
    return Shrinkage(selection.ridge, selection.power)


class CanonicalDirections(NamedTuple):
    """Whitened directions of both sides, in decreasing order of correlation."""

    W_x: Tensor  # (d_x, dim)
    W_y: Tensor  # (d_y, dim)
    rho: Tensor  # (dim,) in [0, 1]
    x: Scaling
    y: Scaling


def canonical_directions(
    function: str,
    pairs: PairRows | PairMoments,
    dim: int | None,
    ridge: tuple[float, float],
    standardise: bool,
) -> CanonicalDirections:
    p = pair_spectra(function, pairs, ridge, standardise)
    dim = check_dim(function, dim, p.n, len(p.x.V), len(p.y.V))
    W_x, W_y, rho = whitened_directions(p, ridge, dim)
    return CanonicalDirections(W_x, W_y, rho, p.x.scaling, p.y.scaling)
