"""Ridge regression as a pair of heads."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg.heads._checks import check_fit
from structure_reg.heads.columns import columns, spectrum, whitening
from structure_reg.heads.linear import LinearHead, linear_head


@torch.no_grad()
def fit_ridge(
    x: Tensor, y: Tensor, *, ridge: float = 1.0, standardise: bool = True
) -> tuple[LinearHead, LinearHead]:
    r"""Regress y on x, and compare the prediction with y.

    .. math:: f_x(x) = \tilde x B, \qquad f_y(y) = \tilde y, \qquad
              B = \bigl( \tilde X^\top \tilde X + n \lambda I \bigr)^{-1} \tilde X^\top \tilde Y,
              \qquad \lambda = \text{ridge} \cdot \tfrac{1}{n d_x} \| \tilde X \|^2

    with centred columns :math:`\tilde X`, :math:`\tilde Y`. The penalty is relative to the mean
    variance of a column, constant ones aside, so that it means the same at every scale and every n.

    Parameters
    ----------
    x : Tensor of shape (n, d_x)
        Frozen features of one side, n >= 2; n may be less than d_x.
    y : Tensor of shape (n, d_y)
        Those of the other, row by row. Swapping the two fits another pair of heads.
    ridge : float
        At least 0; with 0, the shortest of the exact or least-squares solutions.
    standardise : bool
        Whether columns get unit variance first; a column that is constant is left out either way.

    Returns
    -------
    tuple of (LinearHead, LinearHead)
        For x and for y, from d_x and from d_y to d_y; the cosine of their outputs is the score.
        Fitted in float64, on the device of `x`; float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, `ridge` is negative, or a value is not finite.

    See Also
    --------
    fit_cca : Both sides projected, with equal rights.

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
    dtype = check_fit("fit_ridge", x, y, ridge)
    X = columns("fit_ridge", "x", x, standardise=standardise)
    Y = columns("fit_ridge", "y", y, standardise=standardise)
    S = spectrum(X)
    B = S.V @ ((S.s * whitening(S, ridge).square())[:, None] * (S.U.mT @ Y.Z))  # (d_x, d_y)
    as_it_is = torch.eye(len(Y.mean), dtype=torch.float64, device=y.device)
    return linear_head(B, X.mean, X.factor, dtype), linear_head(as_it_is, Y.mean, Y.factor, dtype)
