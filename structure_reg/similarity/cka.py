"""Centred kernel alignment of two sets of features, and of every pair from two lists."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from structure_reg._checks import check_choice, check_layers, check_paired
from structure_reg._precision import full_precision, promote
from structure_reg.similarity.grams import KERNELS, gram_sums, prepare
from structure_reg.similarity.hsic import hsic


def cka(x: Tensor, y: Tensor, *, kernel: str = "linear", debiased: bool = True) -> Tensor:
    r"""Cosine of two centred kernel matrices over the same samples.

    .. math:: \mathrm{CKA}(K, L) = \frac{h(K, L)}{\sqrt{h(K, K)\, h(L, L)}}
    """
    check_paired("cka", rows=4 if debiased else 2, x=x, y=y)
    check_choice("cka", "kernel", kernel, KERNELS)
    return aligned([x], [y], kernel, debiased)[0, 0]


def cka_grid(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    *,
    kernel: str = "linear",
    debiased: bool = True,
) -> Tensor:
    """Return :func:`cka` of every layer of `xs` with every layer of `ys`, in one pass: (LA, LB)."""
    check_layers("cka_grid", rows=4 if debiased else 2, xs=xs, ys=ys)
    check_choice("cka_grid", "kernel", kernel, KERNELS)
    return aligned(xs, ys, kernel, debiased)


def aligned(xs: Sequence[Tensor], ys: Sequence[Tensor], kernel: str, debiased: bool) -> Tensor:
    with full_precision(xs[0].device):
        layers = [prepare(x, kernel) for x in (*xs, *ys)]
        inner, margins = gram_sums(layers)
        H = hsic(inner, margins, margins, debiased=debiased)  # (LA + LB, LA + LB)
        norms = H.diagonal().sqrt()
        C = H / (norms[:, None] * norms)
        LA = len(xs)
        return C[:LA, LA:].to(promote(*(x[:0] for x in (*xs, *ys)))[0].dtype)
