"""The Gram matrices of many layers, tile by tile: all their inner products in one pass.

A tile is one block of rows against another, of every layer at once. It is multiplied with itself
over the layers and dropped, so scratch grows with neither the samples nor the number of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from structure_reg._gram import center
from structure_reg._precision import promote
from structure_reg._tiles import tile_rows
from structure_reg.similarity.bandwidth import median_squared_distance

KERNELS = ("linear", "rbf")

# Larger tiles waste products above the diagonal, smaller ones time between the products.
WIDEST_TILE = 256


class Layer(NamedTuple):
    """Centred rows of mean square 1, and the inverse bandwidth of the kernel on them."""

    x: Tensor  # (n, d)
    rate: Tensor | None  # (): 1 / (2 sigma^2) for "rbf", None for "linear"


class GramSums(NamedTuple):
    """All that HSIC needs of L kernel matrices, in float64; rows and columns below are samples.

    The kernels are only known up to a constant, which every centring removes.
    """

    inner: Tensor  # (L, L): sum over i != j of K_ij L_ij
    rows: Tensor  # (L, n): sum over j != i of K_ij
    diagonal: Tensor  # (L, n): K_ii


def prepare(x: Tensor, kernel: str) -> Layer:
    """Shift and scale a layer to where float32 is exact enough; neither changes its CKA.

    Both are constants to the gradient, which is right because they cancel out of the value. A
    constant layer becomes exactly zero, then 0 / 0: NaN from here on.
    """
    (x,) = promote(x)
    x = center(x - x[0].detach())  # from a nearby point: a mean of 1000 costs no digits
    low, high = x.detach().aminmax()
    x = x / torch.maximum(-low, high)  # squares neither overflow nor vanish
    if kernel == "rbf":
        return Layer(x, 1 / (2 * median_squared_distance(x)))
    return Layer(x, None)


def tiles(n: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Blocks (a, b) of an (n, n) matrix on and above its diagonal."""
    blocks = [slice(i, min(i + side, n)) for i in range(0, n, side)]
    for i, a in enumerate(blocks):
        for b in blocks[i:]:
            yield a, b


def kernel_tile(layer: Layer, a: slice, b: slice) -> Tensor:
    """K[a, b], zero where a row meets itself."""
    x, rate = layer
    K = x[a] @ x[b].mT  # (|a|, |b|)
    if rate is not None:
        K = -rate * (square_norms(x[a])[:, None] + square_norms(x[b]) - 2 * K).clamp_min(0)
    if a == b:
        K.diagonal().zero_()
    # exp(.) - 1, which centring cannot tell from exp(.): a wide kernel keeps its digits.
    return K if rate is None else K.expm1()


def tile_sums(a: slice, b: slice, layers: Sequence[Layer]) -> tuple[Tensor, Tensor, Tensor]:
    K = torch.stack(promote(*(kernel_tile(layer, a, b) for layer in layers)))  # (L, |a|, |b|)
    flat = K.flatten(1)
    return (flat @ flat.mT).double(), K.sum(2).double(), K.sum(1).double()


def gram_sums(layers: Sequence[Layer]) -> GramSums:
    """Walk the tiles once. The gradient recomputes them, rather than keeping them."""
    n, device = layers[0].x.shape[0], layers[0].x.device
    itemsize = max(layer.x.element_size() for layer in layers)
    side = min(WIDEST_TILE, math.isqrt(tile_rows(2 * itemsize * len(layers))))
    inner = torch.zeros(len(layers), len(layers), dtype=torch.float64, device=device)
    rows = torch.zeros(len(layers), n, dtype=torch.float64, device=device)
    differentiable = torch.is_grad_enabled() and any(layer.x.requires_grad for layer in layers)
    for a, b in tiles(n, side):
        if differentiable:
            products, sums_a, sums_b = checkpoint(tile_sums, a, b, layers, use_reentrant=False)
        else:
            products, sums_a, sums_b = tile_sums(a, b, layers)
        inner = inner + (products if a == b else 2 * products)
        rows[:, a] += sums_a
        if a != b:
            rows[:, b] += sums_b
    return GramSums(inner, rows, torch.stack([diagonal(layer) for layer in layers]))


def diagonal(layer: Layer) -> Tensor:
    if layer.rate is not None:
        return layer.x.new_zeros(layer.x.shape[0], dtype=torch.float64)  # exp(0) - 1
    return square_norms(layer.x).double()


def square_norms(x: Tensor) -> Tensor:
    return torch.linalg.vecdot(x, x)  # (n,)
