"""Canonical correlations: what is left when every invertible map of either side is forgiven."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_paired
from structure_reg._precision import full_precision, promote
from structure_reg.similarity._checks import check_share_or_count
from structure_reg.similarity.directions import canonical, directions, leading


@torch.no_grad()
def cca(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean canonical correlation.

    .. math:: \frac1r \sum_{i=1}^{r} \rho_i, \qquad \rho = \text{singular values of } U_x^\top U_y

    with :math:`U` an orthonormal basis of the centred columns, and r the smaller of the two ranks.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], 1 for any invertible affine map; symmetric; higher is more alike; float32, or
        float64 if an input is, and without a gradient. NaN if a tensor is constant.

        Unrelated features of full rank have a mean *square* of max(dx, dy) / (n - 1), and at least
        dx + dy - (n - 1) correlations of exactly 1: with n - 1 features or more it is always 1.

    Raises
    ------
    TypeError
        If an argument is not a floating tensor.
    ValueError
        If the rows or devices do not fit, or n < 2.

    See Also
    --------
    svcca : Of the leading principal components, for more features than samples.
    pwcca : Weighted by what each correlation explains.

    Notes
    -----
    In float64. Directions below max(n, d) times the resolution of the input dtype, or of float32
    for half precision, relative to the largest, are not counted to the rank.

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
    check_paired("cca", x=x, y=y)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = directions(x), directions(y)
        rho, _ = canonical(X, Y)
        return (rho.sum() / torch.minimum(X.rank, Y.rank)).to(x.dtype)


@torch.no_grad()
def svcca(x: Tensor, y: Tensor, *, keep: float | int = 0.99) -> Tensor:
    r"""Mean canonical correlation of the leading principal components of each side.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.
    keep : float or int
        A float in (0, 1]: the fewest components with this share of the variance, of each side for
        itself. An integer: this many components, or as many as there are.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], 1 for a rotation, a scale and a shift, but not for other linear maps: they change
        which components lead; symmetric; higher is more alike; float32, or float64 if an input is,
        and without a gradient. NaN if a tensor is constant.

        Unrelated features have a mean *square* correlation of k / (n - 1) with k components each:
        fix `keep` to a number to compare scores.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the rows or devices do not fit, n < 2, or `keep` is out of range.

    See Also
    --------
    cca : Of all components.

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
    check_paired("svcca", x=x, y=y)
    check_share_or_count("svcca", "keep", keep)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = leading(directions(x), keep), leading(directions(y), keep)
        rho, _ = canonical(X, Y)
        return (rho.sum() / torch.minimum(X.rank, Y.rank)).to(x.dtype)


@torch.no_grad()
def pwcca(x: Tensor, y: Tensor) -> Tensor:
    r"""Mean canonical correlation, weighted by how much of `x` each direction explains.

    .. math:: \sum_i w_i \rho_i, \qquad w_i \propto \sum_j |\langle h_i, x_j \rangle|

    with :math:`h_i` the canonical variates of x and :math:`x_j` its centred columns.

    Parameters
    ----------
    x, y : Tensor of shape (n, dx) and (n, dy)
        Features of the same n >= 2 samples.

    Returns
    -------
    Tensor of shape ()
        In [0, 1], 1 for any invertible affine map of `y` and any scale and shift of `x`; **not**
        symmetric, and a rotation of `x` changes the weights; higher is more alike; float32, or
        float64 if an input is, and without a gradient. NaN if a tensor is constant.

        Unrelated features score as in :func:`cca`: 1 with n - 1 features or more.

    Raises
    ------
    TypeError
        If an argument is not a floating tensor.
    ValueError
        If the rows or devices do not fit, or n < 2.

    See Also
    --------
    cca : With equal weights.

    References
    ----------
    Morcos et al., "Insights on representational similarity in neural networks with canonical
    correlation", NeurIPS 2018, arXiv 1806.05759.

    Examples
    --------
    `y` is the loud column of `x`, and noise:

    >>> g = torch.Generator().manual_seed(0)
    >>> x = torch.randn(100, 3, generator=g) * torch.tensor([100.0, 1.0, 1.0])
    >>> y = torch.cat([x[:, :1], torch.randn(100, 2, generator=g)], 1)
    >>> cca(x, y), pwcca(x, y)
    (tensor(0.4262), tensor(0.9784))
    """
    check_paired("pwcca", x=x, y=y)
    x, y = promote(x, y)
    with full_precision(x.device):
        X, Y = directions(x), directions(y)
        rho, h = canonical(X, Y)
        w = (h.mT @ X.centered).abs().sum(1)  # (m,), zero for directions beyond the rank
        among = torch.arange(len(rho), device=x.device) < torch.minimum(X.rank, Y.rank)
        w = torch.where(among, w[: len(rho)], 0)
        return ((w * rho).sum() / w.sum()).to(x.dtype)
