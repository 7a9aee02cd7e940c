"""Ridge regression as a pair of linear heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array
from structure_reg._checks import check_flag
from structure_reg._precision import needs_float64
from structure_reg.heads._checks import check_number_or_none
from structure_reg.heads.columns import Scaling, column_scaling, scaled_moments
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import PairMoments, PairRows, as_pairs, moments_of_regression
from structure_reg.heads.ridge_selection import generalised_ridge, leave_one_out_ridge
from structure_reg.heads.spectra import (
    Spectrum,
    is_well_posed,
    outnumber_columns,
    spectrum_of_moments,
    spectrum_of_rows,
    whitening,
)


@needs_float64
@torch.no_grad()
def fit_ridge(
    x: Array | PairMoments,
    y: Array | None = None,
    *,
    ridge: float | None = None,
    standardise: bool = True,
) -> tuple[LinearHead, LinearHead]:
    r"""Regress y on x, so that predictions are compared with y, which passes through unchanged.

    .. math:: f_x(x) = \tilde x B, \qquad f_y(y) = \tilde y, \qquad
              B = \bigl( \tilde X^\top \tilde X + n \lambda I \bigr)^{-1} \tilde X^\top \tilde Y,
              \qquad \lambda = \text{ridge} \cdot \tfrac{1}{n d_x} \| \tilde X \|^2

    where :math:`\tilde X`, :math:`\tilde Y` have centred columns. The shared space is that of y,
    whose head only centres and scales the columns. The penalty is relative to the mean variance of
    the columns that vary, so its strength does not depend on the scale of the features or on n.

    Parameters
    ----------
    x : Tensor or array of shape (n, d_x)
        Frozen features of one side, n >= 2. n may be smaller than d_x. Or :class:`PairMoments` of
        both sides, without `y`.
    y : Tensor or array of shape (n, d_y)
        Frozen features of the other side, in the same order. Swapping x and y gives different
        heads.
    ridge : float, optional
        Relative penalty, at least 0. At 0, the fit is the minimum-norm least-squares solution.
        None: the one of 25 between 0.001 and 1000 with the smallest leave-one-out error, in closed
        form on at most 512 of the pairs and searched from coarse to fine; from moments, by
        generalised cross-validation.
    standardise : bool
        Whether to scale columns to unit variance first. Constant columns are ignored in any case.

    Returns
    -------
    tuple of (LinearHead, LinearHead)
        Heads for x and for y, both with d_y outputs. The score of a pair is the cosine of the two
        outputs. Fitted in float64 on the device of `x`, and returned in float32, or float64 if an
        input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, if `ridge` is negative, or if a feature
        is not finite.

    See Also
    --------
    fit_cca : Projects both sides, and treats them alike.

    References
    ----------
    Hoerl and Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 1970.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(200, 16, generator=g)
    >>> y = x @ torch.randn(16, 8, generator=g)
    >>> head_x, head_y = fit_ridge(x[:100], y[:100], ridge=0.01)
    >>> retrieval(head_x(x[100:]), head_y(y[100:])).mean_recall
    tensor(1.)
    """
    pairs = as_pairs("fit_ridge", x, y)
    standardise = check_flag("fit_ridge", "standardise", standardise)
    ridge = check_number_or_none("fit_ridge", "ridge", ridge, least=0.0)
    return regression_heads(regression("fit_ridge", pairs, ridge, standardise), pairs.dtype)


class Regression(NamedTuple):
    """What all ridges share: Z_xᵀ Z_x = V diag(s²) Vᵀ, and Vᵀ Z_xᵀ Z_y of scaled columns."""

    S: Spectrum
    VXY: Tensor  # (r, d_y)
    y: Scaling
    ridge: float


def regression_heads(r: Regression, dtype: torch.dtype) -> tuple[LinearHead, LinearHead]:
    B = r.S.V @ (whitening(r.S, r.ridge).square()[:, None] * r.VXY)  # (d_x, d_y)
    I = torch.eye(B.shape[1], dtype=B.dtype, device=B.device)
    return linear_head(B, *r.S.scaling, dtype), linear_head(I, *r.y, dtype)


def regression(
    function: str, pairs: PairRows | PairMoments, ridge: float | None, standardise: bool
) -> Regression:
    """Take the moments of many pairs, and the rows of few, or where moments lose digits."""
    if isinstance(pairs, PairMoments):
        C = scaled_moments(pairs, standardise)
        S = spectrum_of_moments(C.C_xx, C.x)
        VXY = S.V.mT @ C.C_xy
        if ridge is None:
            ridge = generalised_ridge(S, VXY, C.C_yy.trace(), C.n)
        return Regression(S, VXY, C.y, ridge)
    if outnumber_columns(pairs):
        C = scaled_moments(moments_of_regression(function, pairs), standardise)
        S = spectrum_of_moments(C.C_xx, C.x)
        VXY = S.V.mT @ C.C_xy
        if ridge is None:
            ridge = leave_one_out_ridge(S, VXY, C.y, pairs)
        if is_well_posed(S, ridge):
            return Regression(S, VXY, C.y, ridge)
    of_x = column_scaling(function, "x", pairs.x, standardise=standardise)
    of_y = column_scaling(function, "y", pairs.y, standardise=standardise)
    U, S = spectrum_of_rows(pairs.x, of_x)
    VXY = S.s[:, None] * (U.mT @ of_y(pairs.y))
    if ridge is None:
        ridge = leave_one_out_ridge(S, VXY, of_y, pairs)
    return Regression(S, VXY, of_y, ridge)
