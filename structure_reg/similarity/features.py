"""The linear kernel for many more samples than features: inner products from the features."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from structure_reg._tiles import slices, tile_rows
from structure_reg.similarity.grams import Layer, Margins, linear_margins, longest_rows

ROWS = 4096  # rows of one float32 product; products are summed in float64


def features_are_cheaper(layers: Sequence[Layer], pairs: Collection[tuple[int, int]]) -> bool:
    """Compare multiplications: n p q per pair, or n^2 / 2 per feature and per pair of layers."""
    if layers[0].rate is not None:
        return False
    n, widths = layers[0].x.shape[0], [layer.x.shape[1] for layer in layers]
    by_features = sum(widths[l] * widths[m] for l, m in pairs)
    return by_features < n * (sum(widths) + len(layers) ** 2) / 2


def feature_sums(
    layers: Sequence[Layer], pairs: Collection[tuple[int, int]]
) -> tuple[Tensor, Margins]:
    """:func:`gram_sums` from products of features, with NaN for all pairs not in `pairs`.

    Without the diagonal, <K, L> is |C|^2 - sum |x_i|^2 |y_i|^2 for C = X^T Y. A few rows that are
    much longer than the others would cancel out of this difference with most of its digits. These
    are therefore kept out of C, and their terms are added one by one:

    2 sum_m x_m^T C y_m + sum_{m != m'} K_mm' L_mm'
    """
    margins = linear_margins(layers)
    longest = longest_rows(margins.diagonal)
    others = torch.ones_like(margins.diagonal[0]).index_fill(0, longest, 0)  # (n,)
    inner = -(margins.diagonal * others) @ margins.diagonal.mT  # (L, L)
    by_features = torch.full_like(inner, math.nan)
    for l, m in pairs:
        x, y = layers[l].x, layers[m].x
        among = off_diagonal_product(x[longest], y[longest])
        by_features[l, m] = by_features[m, l] = off_products(x, y, longest, others) + among
    return inner + by_features, margins


def off_products(x: Tensor, y: Tensor, longest: Tensor, others: Tensor) -> Tensor:
    """|C|^2 + 2 sum_m x_m^T C y_m in float64, where C = X^T Y of the other rows.

    C is computed for as many columns of x at once as the tile budget allows.
    """
    columns = tile_rows(16 * y.shape[1])
    kept = others.to(x.dtype)[:, None]  # (n, 1)
    x_longest, y_longest = x[longest].double(), y[longest].double()
    total = x.new_zeros((), dtype=torch.float64)
    for block, x_block in zip(*(torch.split(z, columns, 1) for z in (x, x_longest)), strict=True):
        C = torch.zeros(block.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
        for I in slices(len(x), ROWS):
            C = C + ((block[I] * kept[I]).mT @ y[I]).double()
        total = total + C.square().sum() + 2 * (x_block @ C * y_longest).sum()
    return total


def off_diagonal_product(x: Tensor, y: Tensor) -> Tensor:
    """Sum over i != j of (x_i . x_j) (y_i . y_j) in float64."""
    return 2 * ((x @ x.mT).triu(1).double() * (y @ y.mT).double()).sum()
