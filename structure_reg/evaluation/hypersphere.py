"""Features as directions on the unit sphere: modality gap, alignment and uniformity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
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
def modality_gap(x: Array, y: Array) -> Tensor:
    r"""Distance between the mean directions of the two sides.

    .. math:: \Bigl\| \frac1{n_x} \sum_i \hat x_i - \frac1{n_y} \sum_j \hat y_j \Bigr\|,
              \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x, y : Tensor or array of shape (n_x, d), (n_y, d)
        Features of both sides after their heads, paired or not.

    Returns
    -------
    Tensor of shape ()
        The gap in [0, 2], in float32, or float64 if an input is, without gradient. Symmetric. It is
        0 when the two means agree, which does not imply that pairs are aligned. Invariant to
        scaling each row and to one rotation of both sides.

    Raises
    ------
    TypeError
        If an argument is not of a floating dtype.
    ValueError
        If widths or devices differ, or if a side has no rows.

    See Also
    --------
    alignment : Distance between partners instead of means.

    References
    ----------
    Liang et al., "Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive
    Representation Learning", NeurIPS 2022, arXiv 2203.02053.

    Examples
    --------
    >>> modality_gap(torch.eye(2), -torch.eye(2))
    tensor(1.4142)
    """
    x, y = as_tensors("modality_gap", x=x, y=y)
    check_features("modality_gap", rows=1, x=x, y=y)
    check_same_width("modality_gap", x=x, y=y)
    check_device("modality_gap", "x and y", x, y)
    x, y = promote(x, y)
    return (unit_rows(x).mean(0) - unit_rows(y).mean(0)).square().sum().sqrt()


@torch.no_grad()
def alignment(x: Array, y: Array, *, alpha: float = 2.0) -> Tensor:
    r"""Mean distance between partners on the unit sphere, raised to a power.

    .. math:: \frac1n \sum_i \| \hat x_i - \hat y_i \|^\alpha, \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x, y : Tensor or array of shape (n, d)
        Paired features after their heads.
    alpha : float
        Exponent of the distance, positive.

    Returns
    -------
    Tensor of shape ()
        The alignment in [0, 2^alpha], in float32, or float64 if an input is, without gradient.
        Lower is better. Symmetric. With alpha = 2, it equals 2 minus twice the mean cosine. A
        collapsed head scores 0, so read it together with :func:`uniformity`. Invariant to scaling
        each row and to one rotation of both sides.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If shapes, numbers of rows or devices do not match, or if `alpha` is not positive.

    See Also
    --------
    uniformity : How evenly rows are spread, the counterpart of alignment.

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
    x, y = as_tensors("alignment", x=x, y=y)
    check_paired("alignment", rows=1, x=x, y=y)
    check_same_width("alignment", x=x, y=y)
    alpha = check_number("alignment", "alpha", alpha, above=0.0)
    x, y = promote(x, y)
    squared_distance = (unit_rows(x) - unit_rows(y)).square().sum(-1)  # (n,)
    return squared_distance.pow(alpha / 2).mean()


@torch.no_grad()
def uniformity(x: Array, *, t: float = 2.0) -> Tensor:
    r"""Logarithm of the mean Gaussian potential between rows on the unit sphere.

    .. math:: \log \frac{1}{n (n - 1)} \sum_{i \ne j} e^{-t \| \hat x_i - \hat x_j \|^2},
              \qquad \hat x = x / \| x \|

    Parameters
    ----------
    x : Tensor or array of shape (n, d)
        Features of one side after its head, n >= 2.
    t : float
        Sharpness of the Gaussian, positive.

    Returns
    -------
    Tensor of shape ()
        The uniformity in [-4t, 0], in float32, or float64 if `x` is, without gradient. Lower means
        more evenly spread, and 0 means that all rows share one direction. Rows that are uniform on
        the sphere score about :math:`\log {}_0F_1(d/2;\, t^2) - 2t`, which approaches -2t as d
        grows. Invariant to scaling each row and to rotation. Scratch memory is bounded by
        :func:`tile_budget`.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If `x` is not of shape (n, d), if n < 2, or if `t` is not positive.

    See Also
    --------
    alignment : How close partners are, the counterpart of uniformity.

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
    (x,) = as_tensors("uniformity", x=x)
    check_features("uniformity", x=x)
    t = check_number("uniformity", "t", t, above=0.0)
    (x,) = promote(x)
    n = len(x)
    parts = []
    with full_precision(x.device):
        u = unit_rows(x)
        squared = u.square().sum(-1)  # (n,), 1 except for zero rows
        for rows in tiles(n, 3 * u.element_size() * n):
            D = torch.addmm(squared, u[rows], u.mT, alpha=-2).add_(squared[rows, None])  # (b, n)
            D[:, rows].fill_diagonal_(torch.inf)
            parts.append(D.clamp_(min=0).mul_(-t).logsumexp((0, 1)))
        return torch.stack(parts).logsumexp(0) - math.log(n * (n - 1))
