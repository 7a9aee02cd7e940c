"""Orthogonal Procrustes analysis as a pair of linear heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._arrays import Array
from structure_reg._checks import check_flag
from structure_reg._gram import unit_rows
from structure_reg._precision import needs_float64
from structure_reg._tiles import slices, tile_rows
from structure_reg.heads._checks import check_dim
from structure_reg.heads.columns import Scaling, column_scaling, scaled_moments
from structure_reg.heads.linear import LinearHead, linear_head
from structure_reg.heads.moments import PairMoments, as_pairs
from structure_reg.heads.spectra import paired_directions


@needs_float64
@torch.no_grad()
def fit_procrustes(
    x: Array | PairMoments,
    y: Array | None = None,
    *,
    dim: int | None = None,
    standardise: bool = True,
) -> tuple[LinearHead, LinearHead]:
    r"""Fit the orthogonal maps that bring both sides closest to each other.

    .. math:: \hat X^\top \hat Y = U \operatorname{diag}(\sigma) V^\top, \qquad
              f_x(x) = \tilde x \, U, \qquad f_y(y) = \tilde y \, V

    where :math:`\tilde X`, :math:`\tilde Y` have centred columns, and :math:`\hat X`,
    :math:`\hat Y` are the same with rows scaled to unit length.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d_x), (n, d_y)
        Paired frozen features, n >= 2. n may be smaller than the widths, which may differ. Instead
        of both, :class:`PairMoments` of the pairs as `x` alone: their rows then keep the lengths
        that they were added with.
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
    pairs = as_pairs("fit_procrustes", x, y)
    standardise = check_flag("fit_procrustes", "standardise", standardise)
    if isinstance(pairs, PairMoments):
        C = scaled_moments(pairs, standardise)
        n, of_x, of_y, XY = C.n, C.x, C.y, C.C_xy
    else:
        n = len(pairs.x)
        of_x = column_scaling("fit_procrustes", "x", pairs.x, standardise=standardise)
        of_y = column_scaling("fit_procrustes", "y", pairs.y, standardise=standardise)
        XY = product_of_unit_rows(*pairs, of_x, of_y)
    dim = check_dim("fit_procrustes", dim, n, *XY.shape)
    U, _, V = paired_directions(XY, dim)
    return linear_head(U, *of_x, pairs.dtype), linear_head(V, *of_y, pairs.dtype)


def product_of_unit_rows(x: Any, y: Any, of_x: Scaling, of_y: Scaling) -> Tensor:
    """Sum over the pairs of products of their scaled rows at unit length, (d_x, d_y).

    `x` and `y` are tensors, or what has their shape and gives rows by index.
    """
    d_x, d_y = x.shape[1], y.shape[1]
    XY = of_x.mean.new_zeros(d_x, d_y)
    for rows in slices(len(x), tile_rows(4 * 8 * (d_x + d_y))):
        XY.addmm_(unit_rows(of_x(x[rows])).mT, unit_rows(of_y(y[rows])))
    return XY
