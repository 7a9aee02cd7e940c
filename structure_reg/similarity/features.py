"""The linear kernel for many more samples than features: inner products from the features."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from structure_reg._precision import promote
from structure_reg._tiles import tile_rows
from structure_reg.similarity.grams import Layer, Margins, linear_margins

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
    """:func:`gram_sums` by <K, L> = |X^T Y|^2, with NaN for all pairs that are not in `pairs`."""
    margins = linear_margins(layers)
    inner = margins.rows.new_full((len(layers), len(layers)), math.nan)
    for l, m in pairs:
        inner[l, m] = inner[m, l] = squared_product(*promote(layers[l].x, layers[m].x))
    return inner - margins.diagonal @ margins.diagonal.mT, margins


def squared_product(x: Tensor, y: Tensor) -> Tensor:
    """|X^T Y|^2 in float64, for as many columns of x at once as the tile budget allows."""
    columns = tile_rows(16 * y.shape[1])
    total = x.new_zeros((), dtype=torch.float64)
    for block in torch.split(x, columns, 1):
        product = torch.zeros(block.shape[1], y.shape[1], dtype=torch.float64, device=x.device)
        for x_rows, y_rows in zip(torch.split(block, ROWS), torch.split(y, ROWS), strict=True):
            product = product + (x_rows.mT @ y_rows).double()
        total = total + product.square().sum()
    return total
