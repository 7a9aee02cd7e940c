"""Mean and standard deviation of CKA for unrelated features, in closed form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array, layer_tensors
from structure_reg._checks import check_choice, check_flag, check_layers
from structure_reg._precision import full_precision, needs_float64, result_dtype
from structure_reg.similarity.grams import KERNELS, Layer, gram_sums, prepare
from structure_reg.similarity.hsic import centered_diagonal, hsic


class Chance(NamedTuple):
    """Mean and standard deviation of a similarity over all re-pairings of the rows.

    Attributes
    ----------
    mean, sd : Tensor of shape (LA, LB)
        One entry for every pair of layers.
    """

    mean: Tensor
    sd: Tensor


@needs_float64
@torch.no_grad()
def cka_chance(
    xs: Mapping[str, Array] | Sequence[Array],
    ys: Mapping[str, Array] | Sequence[Array],
    *,
    kernel: str = "linear",
    debiased: bool = True,
) -> Chance:
    r"""Exact mean and standard deviation of :func:`cka` over all n! pairings of the rows.

    For the debiased form they are 0 and :math:`\sqrt{2 / (n (n - 3))}`, whatever the features are.
    For the biased form, let :math:`T, T_2, S` be the sums of the diagonal, of all squares and of
    the squared diagonal of the centred kernel matrix of x, and :math:`U, U_2, V` those of y. Then
    [1]_

    .. math::
        \mu &= \frac{T U}{(n - 1) \sqrt{T_2 U_2}} \\
        T_2 U_2 \sigma^2 &= \frac{2 A(T, T_2) A(U, U_2)}{(n - 1)^2 (n + 1) (n - 2)}
            + \frac{B(T, T_2, S) B(U, U_2, V)}{(n + 1) n (n - 1) (n - 2) (n - 3)}

    where :math:`A(T, T_2) = (n - 1) T_2 - T^2` and
    :math:`B(T, T_2, S) = n (n + 1) S - (n - 1) (T^2 + 2 T_2)`.

    Parameters
    ----------
    xs, ys : list or mapping of Tensor or array, of shape (n, d)
        Layers of the two encoders for the same n >= 4 samples.
    kernel, debiased
        Form of CKA, as in :func:`cka`.

    Returns
    -------
    Chance
        Mean and standard deviation for each pair of layers; no gradient. The distribution is
        skewed, so a p-value needs permutations, as in :func:`select_layers`.

    Raises
    ------
    TypeError, ValueError
        For the same reasons as in :func:`layer_similarity`.

    References
    ----------
    .. [1] Kazi-Aoual et al., "Refined approximations to permutation tests for multivariate
       inference", Computational Statistics & Data Analysis 20, 1995.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(64, 512, generator=g), torch.randn(64, 512, generator=g)
    >>> mean, sd = cka_chance([x], [y], debiased=False)
    >>> mean, sd
    (tensor([[0.8885]]), tensor([[0.0025]]))
    """
    name = "cka_chance"
    x_layers, y_layers = layer_tensors(name, "xs", xs), layer_tensors(name, "ys", ys)
    check_layers(name, rows=4, xs=x_layers, ys=y_layers)
    X, Y = list(x_layers.values()), list(y_layers.values())
    check_choice(name, "kernel", kernel, KERNELS)
    debiased = check_flag(name, "debiased", debiased)
    n, dtype = X[0].shape[0], result_dtype(*X, *Y)
    if debiased:
        mean = X[0].new_zeros(len(X), len(Y), dtype=dtype)
        return Chance(mean, mean + math.sqrt(2 / (n * (n - 3))))
    with full_precision(X[0].device):
        (T, T_2, S), (U, U_2, V) = (
            moments([prepare(x.to(dtype), kernel) for x in side]) for side in (X, Y)
        )
        A, A_y = (n - 1) * T_2 - T**2, (n - 1) * U_2 - U**2
        B = n * (n + 1) * S - (n - 1) * (T**2 + 2 * T_2)
        B_y = n * (n + 1) * V - (n - 1) * (U**2 + 2 * U_2)
        norms = torch.outer(T_2, U_2)
        variance = 2 * torch.outer(A, A_y) / ((n - 1) ** 2 * (n + 1) * (n - 2))
        variance += torch.outer(B, B_y) / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
        mean = torch.outer(T, U) / ((n - 1) * norms.sqrt())
        return Chance(mean.to(dtype), (variance / norms).sqrt().to(dtype))


def moments(layers: Sequence[Layer]) -> tuple[Tensor, Tensor, Tensor]:
    """Trace, sum of squares, and sum of the squared diagonal of each centred kernel matrix."""
    inner, margins = gram_sums(layers)
    diagonal = centered_diagonal(margins)  # (L, n)
    squares = hsic(inner, margins, margins, debiased=False).diagonal()
    return diagonal.sum(1), squares, diagonal.square().sum(1)
