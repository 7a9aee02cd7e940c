"""Orthogonal Procrustes as a pair of linear heads."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._gram import unit_rows
from structure_reg.heads._checks import check_dim, check_fit
from structure_reg.heads.columns import columns, paired_directions
from structure_reg.heads.linear import LinearHead, linear_head


@torch.no_grad()
def fit_procrustes(
    x: Tensor, y: Tensor, *, dim: int | None = None, standardise: bool = True
) -> tuple[LinearHead, LinearHead]:
    r"""Rotate both sides onto each other, as far as a rotation can.

    .. math:: \hat X^\top \hat Y = U \operatorname{diag}(\sigma) V^\top, \qquad
              f_x(x) = \tilde x \, U, \qquad f_y(y) = \tilde y \, V

    with centred columns :math:`\tilde X`, :math:`\tilde Y`, whose rows have unit length in
    :math:`\hat X`, :math:`\hat Y`.

    Parameters
    ----------
    x, y : Tensor of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2; n may be less than the widths, and these may differ.
    dim : int, optional
        How many directions, at most min(n - 1, d_x, d_y). None: that many.
    standardise : bool
        Whether columns get unit variance first; a column that is constant is left out either way.

    Returns
    -------
    tuple of (LinearHead, LinearHead)
        For x and for y, to `dim` directions, those that agree most first; the cosine of their
        outputs is the score. Zero beyond the rank of the features. Fitted in float64, on the device
        of `x`; float32, or float64 if an input is.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, `dim` is out of range, or a value is not finite.

    See Also
    --------
    fit_cca : Whitens both sides first.

    References
    ----------
    Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 1966.

    Examples
    --------
    Few pairs undo a rotation:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 16, generator=g)
    >>> rotation, _ = torch.linalg.qr(torch.randn(16, 16, generator=g))
    >>> y = x @ rotation
    >>> head_x, head_y = fit_procrustes(x[:40], y[:40], standardise=False)
    >>> retrieval(head_x(x[40:]), head_y(y[40:])).mean_recall
    tensor(1.)
    """
    dtype = check_fit("fit_procrustes", x, y)
    dim = check_dim("fit_procrustes", dim, len(x), x.shape[1], y.shape[1])
    X = columns("fit_procrustes", "x", x, standardise=standardise)
    Y = columns("fit_procrustes", "y", y, standardise=standardise)
    U, _, V = paired_directions(unit_rows(X.Z).mT @ unit_rows(Y.Z), dim)
    return linear_head(U, X.mean, X.factor, dtype), linear_head(V, Y.mean, Y.factor, dtype)
