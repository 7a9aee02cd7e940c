"""Canonical correlations: similarity up to an invertible linear map of either side."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_paired
from structure_reg._precision import full_precision, needs_float64, promote
from structure_reg.similarity._checks import check_share_or_count
from structure_reg.similarity.directions import (
    canonical_correlations,
    column_space,
    leading_directions,
)


@needs_float64
@torch.no_grad()
def cca(x: Array, y: Array) -> Tensor:
    r"""Mean canonical correlation.

    .. math:: \frac1r \sum_{i=1}^{r} \rho_i, \qquad \rho = \text{singular values of } U_x^\top U_y

    where :math:`U` is an orthonormal basis of the centred columns and r the smaller of the two
    ranks.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], with 1 for any invertible affine map; symmetric; higher is more similar.
        float32, or float64 if an input is; no gradient. NaN if a tensor is constant.

        For unrelated features of full rank, the mean *squared* correlation is
        max(dx, dy) / (n - 1), and at least dx + dy - (n - 1) correlations are exactly 1. With n - 1
        or more features the value is always 1.

    Raises
    ------
    TypeError
        If an argument is not of a floating dtype.
    ValueError
        If the numbers of rows or the devices differ, or n < 2.

    See Also
    --------
    svcca : CCA of the leading principal components, for more features than samples.
    pwcca : CCA weighted by how much each direction explains.

    Notes
    -----
    Computed in float64. The units of the columns do not matter: the rank counts the singular values
    of the centred columns, each divided by its length, that exceed :math:`32 (1 + \sqrt{d / n})`
    times the machine epsilon of the input dtype (of float32 for half precision).

    References
    ----------
    Hotelling, "Relations Between Two Sets of Variates", Biometrika 28, 1936.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(100, 5, generator=g), torch.randn(100, 5, generator=g)
    >>> cca(x, x @ torch.randn(5, 5, generator=g) + 1), cca(x, y)
    (tensor(1.), tensor(0.2034))
    """
    x, y = as_tensors("cca", x=x, y=y)
    check_paired("cca", x=x, y=y)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = column_space(x), column_space(y)
        rho, _ = canonical_correlations(X, Y)
        return (rho.sum() / torch.minimum(X.rank, Y.rank)).to(x.dtype)


@needs_float64
@torch.no_grad()
def svcca(x: Array, y: Array, *, keep: float | int = 0.99) -> Tensor:
    r"""Mean canonical correlation of the leading principal components of each side.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.
    keep : float or int
        Components kept on each side. A float in (0, 1] keeps the fewest components that hold this
        share of the variance; an integer keeps this many, or all if there are fewer.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], with 1 for a rotation, a scale and a shift, but not for other linear maps,
        because they change which components lead; symmetric; higher is more similar. float32, or
        float64 if an input is; no gradient. NaN if a tensor is constant.

        For unrelated features and k components on each side, the mean *squared* correlation is
        k / (n - 1). To compare scores, set `keep` to an integer.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the numbers of rows or the devices differ, n < 2, or `keep` is out of range.

    See Also
    --------
    cca : Mean canonical correlation of all components.

    References
    ----------
    Raghu et al., "SVCCA: Singular Vector Canonical Correlation Analysis for Deep Learning Dynamics
    and Interpretability", NeurIPS 2017, arXiv 1706.05806.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(100, 200, generator=g), torch.randn(100, 200, generator=g)
    >>> svcca(x, y, keep=5), cca(x, y)
    (tensor(0.1908), tensor(1.))
    """
    x, y = as_tensors("svcca", x=x, y=y)
    check_paired("svcca", x=x, y=y)
    keep = check_share_or_count("svcca", "keep", keep)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = (leading_directions(column_space(z), keep) for z in (x, y))
        rho, _ = canonical_correlations(X, Y)
        return (rho.sum() / torch.minimum(X.rank, Y.rank)).to(x.dtype)


@needs_float64
@torch.no_grad()
def pwcca(x: Array, y: Array) -> Tensor:
    r"""Mean canonical correlation weighted by how much of `x` each direction explains.

    .. math:: \sum_i w_i \rho_i, \qquad w_i \propto \sum_j |\langle h_i, x_j \rangle|

    where :math:`h_i` are the canonical variates of x and :math:`x_j` its centred columns.

    Parameters
    ----------
    x, y : Tensor or array of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        Value in [0, 1], with 1 for any invertible affine map of `y` and any scale and shift of `x`.
        **Not** symmetric, and a rotation of `x` changes the weights. Higher is more similar.
        float32, or float64 if an input is; no gradient. NaN if a tensor is constant.

        Unrelated features score as in :func:`cca`: 1 with n - 1 or more features.

    Raises
    ------
    TypeError
        If an argument is not of a floating dtype.
    ValueError
        If the numbers of rows or the devices differ, or n < 2.

    See Also
    --------
    cca : The unweighted mean.

    References
    ----------
    Morcos et al., "Insights on representational similarity in neural networks with canonical
    correlation", NeurIPS 2018, arXiv 1806.05759.

    Examples
    --------
    `y` contains the dominant column of `x`, and noise:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 3, generator=g) * torch.tensor([100.0, 1.0, 1.0])
    >>> y = torch.cat([x[:, :1], torch.randn(100, 2, generator=g)], 1)
    >>> cca(x, y), pwcca(x, y)
    (tensor(0.4262), tensor(0.9784))
    """
    x, y = as_tensors("pwcca", x=x, y=y)
    check_paired("pwcca", x=x, y=y)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = column_space(x), column_space(y)
        rho, h = canonical_correlations(X, Y)
        w = (h.mT @ X.centered).abs().sum(1)  # (m,), zero for directions beyond the rank
        counted = torch.arange(len(rho), device=x.device) < torch.minimum(X.rank, Y.rank)
        w = torch.where(counted, w[: len(rho)], 0)
        return ((w * rho).sum() / w.sum()).to(x.dtype)
