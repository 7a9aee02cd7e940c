"""Two clouds of directions on the sphere: how far apart, how close in pairs, how evenly spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg._checks import (
    check_device,
    check_features,
    check_number,
    check_paired,
    check_same_width,
)
from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote
from structure_reg.evaluation.ranks import tiles


@torch.no_grad()
def modality_gap(x: Tensor, y: Tensor) -> Tensor:
    r"""Distance of the two sides' mean directions.

    .. math:: \Bigl\| \frac1{n_x} \sum_i \hat x_i - \frac1{n_y} \sum_j \hat y_j \Bigr\|,
              \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x, y : Tensor of shape (n_x, d), (n_y, d)
        Both sides after their heads, paired or not.

    Returns
    -------
    Tensor of shape ()
        In [0, 2]; symmetric; 0 where the clouds share their mean, which does not make them
        aligned; float32, or float64 if an input is; without gradient. Unchanged by a scale per row
        and by one rotation of both.

    Raises
    ------
    TypeError
        If an argument is not a floating tensor.
    ValueError
        If the widths or devices differ, or a side has no rows.

    See Also
    --------
    alignment : Distance of the partners instead of the means.

    References
    ----------
    Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive
    Representation Learning", NeurIPS 2022, arXiv 2203.02053.

    Examples
    --------
    >>> modality_gap(torch.eye(2), -torch.eye(2))
    tensor(1.4142)
    """
    check_features("modality_gap", rows=1, x=x, y=y)
    check_same_width("modality_gap", x=x, y=y)
    check_device("modality_gap", "x and y", x, y)
    x, y = promote(x, y)
    return (unit_rows(x).mean(0) - unit_rows(y).mean(0)).square().sum().sqrt()


@torch.no_grad()
def alignment(x: Tensor, y: Tensor, *, alpha: float = 2.0) -> Tensor:
    r"""Mean distance of partners on the unit sphere, to a power: Wang and Isola's alignment.

    .. math:: \frac1n \sum_i \| \hat x_i - \hat y_i \|^\alpha, \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x, y : Tensor of shape (n, d)
        Paired features after their heads.
    alpha : float
        Positive.

    Returns
    -------
    Tensor of shape ()
        In [0, 2^alpha]; lower is better; symmetric; with alpha = 2 it is 2 less twice the mean
        cosine. A head that has collapsed scores 0: read it beside :func:`uniformity`. float32, or
        float64 if an input is; without gradient. Unchanged by a scale per row and by one rotation
        of both.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, or `alpha` is not positive.

    See Also
    --------
    uniformity : The other half, whether rows are spread out.

    References
    ----------
    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020, arXiv 2005.10242.

    Examples
    --------
    >>> x = torch.eye(4)
    >>> alignment(x, 3 * x), alignment(x, -x), alignment(x, x.roll(1, 0))
    (tensor(0.), tensor(4.), tensor(2.))
    """
    check_paired("alignment", rows=1, x=x, y=y)
    check_same_width("alignment", x=x, y=y)
    check_number("alignment", "alpha", alpha, above=0.0)
    x, y = promote(x, y)
    squared = (unit_rows(x) - unit_rows(y)).square().sum(-1)  # (n,)
    return squared.pow(alpha / 2).mean()


@torch.no_grad()
def uniformity(x: Tensor, *, t: float = 2.0) -> Tensor:
    r"""Logarithm of the mean Gaussian potential of two rows on the unit sphere.

    .. math:: \log \frac{1}{n (n - 1)} \sum_{i \ne j} e^{-t \| \hat x_i - \hat x_j \|^2},
              \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x : Tensor of shape (n, d)
        One side after its head, n >= 2.
    t : float
        Positive.

    Returns
    -------
    Tensor of shape ()
        In [-4t, 0]; lower is more evenly spread, 0 when all rows are one direction; about
        :math:`\log {}_0F_1(d/2;\, t^2) - 2t` for rows spread evenly, which nears -2t as d grows;
        float32, or float64 if `x` is; without gradient. Unchanged by a scale per row and by a
        rotation. Scratch memory is that of :func:`tile_budget`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shape does not fit, n < 2, or `t` is not positive.

    See Also
    --------
    alignment : The other half, whether partners are close.

    References
    ----------
    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and
    Uniformity on the Hypersphere", ICML 2020, arXiv 2005.10242.

    Examples
    --------
    >>> x = torch.randn(2000, 64, generator=torch.Generator().manual_seed(0))
    >>> uniformity(x), uniformity(x + 1), uniformity(torch.ones(2000, 64))
    (tensor(-3.8755), tensor(-1.9510), tensor(0.))
    """
    check_features("uniformity", x=x)
    check_number("uniformity", "t", t, above=0.0)
    (x,) = promote(x)
    n = len(x)
    parts = []
    with full_precision(x.device):
        u = unit_rows(x)
        squared = u.square().sum(-1)  # (n,), 1 but for zero rows
        for rows in tiles(n, 3 * u.element_size() * n):
            D = torch.addmm(squared, u[rows], u.mT, alpha=-2).add_(squared[rows, None])  # (b, n)
            D[:, rows].fill_diagonal_(torch.inf)
            parts.append(D.clamp_(min=0).mul_(-t).logsumexp((0, 1)))
        return torch.stack(parts).logsumexp(0) - math.log(n * (n - 1))
