"""Ridge regression as a pair of linear heads."""

from __future__ import annotations

import torch

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_flag, check_number
from structure_reg.heads._checks import check_fit
from structure_reg.heads.columns import columns, spectrum, whitening
from structure_reg.heads.linear import LinearHead, linear_head


@torch.no_grad()
def fit_ridge(
    x: Array, y: Array, *, ridge: float = 1.0, standardise: bool = True
) -> tuple[LinearHead, LinearHead]:
    r"""Regress y on x, so that predictions are compared with y.

    .. math:: f_x(x) = \tilde x B, \qquad f_y(y) = \tilde y, \qquad
              B = \bigl( \tilde X^\top \tilde X + n \lambda I \bigr)^{-1} \tilde X^\top \tilde Y,
              \qquad \lambda = \text{ridge} \cdot \tfrac{1}{n d_x} \| \tilde X \|^2

    where :math:`\tilde X`, :math:`\tilde Y` have centred columns. The penalty is relative to the
    mean variance of the columns that vary, so its strength does not depend on the scale of the
    features or on n.

    Parameters
    ----------
    x : Tensor or array of shape (n, d_x)
        Frozen features of one side, n >= 2. n may be smaller than d_x.
    y : Tensor or array of shape (n, d_y)
        Frozen features of the other side, in the same order. Swapping x and y gives different
        heads.
    ridge : float
        Relative penalty, at least 0. At 0, the fit is the minimum-norm least-squares solution.
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
    x, y = as_tensors("fit_ridge", x=x, y=y)
    dtype = check_fit("fit_ridge", x, y)
    standardise = check_flag("fit_ridge", "standardise", standardise)
    ridge = check_number("fit_ridge", "ridge", ridge, least=0.0)
    X = columns("fit_ridge", "x", x, standardise=standardise)
    Y = columns("fit_ridge", "y", y, standardise=standardise)
    S = spectrum(X)
    B = S.V @ ((S.s * whitening(S, ridge).square())[:, None] * (S.U.mT @ Y.Z))  # (d_x, d_y)
    I = torch.eye(len(Y.mean), dtype=torch.float64, device=y.device)
    return linear_head(B, X.mean, X.factor, dtype), linear_head(I, Y.mean, Y.factor, dtype)
