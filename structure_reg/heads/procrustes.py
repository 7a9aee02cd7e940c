"""Orthogonal Procrustes analysis as a pair of linear heads."""

from __future__ import annotations

import torch

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_flag
from structure_reg._gram import unit_rows
from structure_reg.heads._checks import check_dim, check_fit
from structure_reg.heads.columns import columns, paired_directions
from structure_reg.heads.linear import LinearHead, linear_head


@torch.no_grad()
def fit_procrustes(
    x: Array, y: Array, *, dim: int | None = None, standardise: bool = True
) -> tuple[LinearHead, LinearHead]:
    r"""Fit the orthogonal maps that bring both sides closest to each other.

    .. math:: \hat X^\top \hat Y = U \operatorname{diag}(\sigma) V^\top, \qquad
              f_x(x) = \tilde x \, U, \qquad f_y(y) = \tilde y \, V

    where :math:`\tilde X`, :math:`\tilde Y` have centred columns, and :math:`\hat X`,
    :math:`\hat Y` are the same with rows scaled to unit length.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2. n may be smaller than the widths, which may differ.
    dim : int, optional
        Number of directions, at most min(n - 1, d_x, d_y), which is the default.
    standardise : bool
        Whether to scale columns to unit variance first. Constant columns are ignored in any case.

    Returns
    -------
    tuple of (LinearHead, LinearHead)
        Heads for x and for y with `dim` outputs, in decreasing order of agreement. The score of a
        pair is the cosine of the two outputs. Directions beyond the rank of the features are zero.
        Fitted in float64 on the device of `x`, and returned in float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, if `dim` is out of range, or if a
        feature is not finite.

    See Also
    --------
    fit_cca : Also whitens both sides.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.

    Examples
    --------
    A few pairs are enough to undo a rotation:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 16, generator=g)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g))
    >>> y = x @ rotation
    >>> head_x, head_y = fit_procrustes(x[:40], y[:40], standardise=False)
    >>> retrieval(head_x(x[40:]), head_y(y[40:])).mean_recall
    tensor(1.)
    """
    x, y = as_tensors("fit_procrustes", x=x, y=y)
    dtype = check_fit("fit_procrustes", x, y)
    standardise = check_flag("fit_procrustes", "standardise", standardise)
    dim = check_dim("fit_procrustes", dim, len(x), x.shape[1], y.shape[1])
    X = columns("fit_procrustes", "x", x, standardise=standardise)
    Y = columns("fit_procrustes", "y", y, standardise=standardise)
    U, _, V = paired_directions(unit_rows(X.Z).mT @ unit_rows(Y.Z), dim)
    return linear_head(U, X.mean, X.factor, dtype), linear_head(V, Y.mean, Y.factor, dtype)
