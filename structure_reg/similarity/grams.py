"""Inner products between the kernel matrices of many layers, in one pass over their tiles.

A tile pairs one block of rows with another, for all layers at once. Its inner products between
layers are added up and the tile is discarded, so scratch memory grows with neither the number of
samples nor the number of pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from structure_reg._gram import square_norms, squared_distances
from structure_reg._precision import promote
from structure_reg._tiles import tile_rows, upper_tiles
from structure_reg.similarity.bandwidth import median_squared_distance
from structure_reg.similarity.origin import around_typical_row

KERNELS = ("linear", "rbf")

# Larger tiles waste products below the diagonal; smaller ones waste time between the products.
WIDEST_TILE = 256

# rate * distance at the median distance, near which most distances lie in many dimensions. The
# kernel is computed as exp(1/2 - rate * distance) - 1, so that small variations around the median
# keep their digits. Centring removes the -1, and CKA ignores the factor.
MEDIAN_EXPONENT = 0.5


# Rows of each layer that are handled apart, because they may be much longer than the others.
LONGEST = 4


class Layer(NamedTuple):
    """Rows around their typical row, scaled, and the rate of their kernel."""

    x: Tensor  # (n, d)
    rate: Tensor | None  # (): 1 / (2 sigma^2) for "rbf", None for "linear"


class Margins(NamedTuple):
    """Row sums without the diagonal, and the diagonal, of L kernel matrices in float64."""

    rows: Tensor  # (L, n): sum over j != i of K_ij
    diagonal: Tensor  # (L, n): K_ii

    def at(self, index: Any) -> Margins:
        return Margins(self.rows[index], self.diagonal[index])


def prepare(x: Tensor, kernel: str) -> Layer:
    """Rows whose largest entry is 1. The scale is a constant to the gradient, like the origin.

    Both cancel out of CKA. A constant layer becomes exactly zero, then 0 / 0: NaN from here on.
    """
    x = around_typical_row(*promote(x))
    low, high = x.detach().aminmax()
    x = x.div_(torch.maximum(-low, high))  # squares neither overflow nor vanish
    if kernel == "rbf":
        return Layer(x, MEDIAN_EXPONENT / median_squared_distance(x))
    return Layer(x, None)


def kernel_tile(layer: Layer, a: slice, b: slice) -> Tensor:
    """K[a, b], with zeros on the diagonal if a == b."""
    x, rate = layer
    K = x[a] @ x[b].mT if rate is None else MEDIAN_EXPONENT - rate * squared_distances(x[a], x[b])
    if a == b:
        K.diagonal().zero_()
    return K if rate is None else K.expm1()  # (|a|, |b|)


def gram_sums(layers: Sequence[Layer]) -> tuple[Tensor, Margins]:
    """Sums over i != j of K_ij L_ij for all pairs of layers, (L, L) in float64, and the margins.

    The backward pass recomputes the tiles if keeping them would exceed the tile budget.
    """
    n, device = layers[0].x.shape[0], layers[0].x.device
    itemsize = max(layer.x.element_size() for layer in layers)
    entries = tile_rows(2 * itemsize * len(layers))  # two tiles of all layers
    side = min(WIDEST_TILE, math.isqrt(entries))
    differentiable = torch.is_grad_enabled() and any(layer.x.requires_grad for layer in layers)
    recompute = differentiable and n * n > entries
    inner = torch.zeros(len(layers), len(layers), dtype=torch.float64, device=device)
    rows = torch.zeros(len(layers), n, dtype=torch.float64, device=device)
    radial = layers[0].rate is not None
    for a, b in upper_tiles(n, side):
        if recompute:
            products, sums_a, sums_b = recomputed(tile_sums, a, b, layers)
        else:
            products, sums_a, sums_b = tile_sums(a, b, layers)
        inner = inner + (products if a == b else 2 * products)
        if radial:
            rows = rows + pad(sums_a, (a.start, n - a.stop))
            if a != b:
                rows = rows + pad(sums_b, (b.start, n - b.stop))
    if radial:
        return inner, Margins(rows, torch.full_like(rows, math.expm1(MEDIAN_EXPONENT)))
    return inner, linear_margins(layers)


def tile_sums(a: slice, b: slice, layers: Sequence[Layer]) -> tuple[Tensor, Tensor, Tensor]:
    K = torch.stack([kernel_tile(layer, a, b) for layer in layers])  # (L, |a|, |b|)
    flat = K.flatten(1)
    products = (flat @ flat.mT).double()
    if layers[0].rate is None:
        return products, K, K  # the sums are not used: linear margins are known
    return products, K.sum(2).double(), K.sum(1).double()


def linear_margins(layers: Sequence[Layer]) -> Margins:
    squares = [square_norms(layer.x) for layer in layers]
    diagonal = torch.stack(squares).double()
    longest = longest_rows(diagonal)
    rows = [linear_rows(l.x, square, longest) for l, square in zip(layers, squares, strict=True)]
    return Margins(torch.stack(rows), diagonal)


def longest_rows(diagonal: Tensor) -> Tensor:
    """Indices of the LONGEST longest rows of every layer, (LONGEST L,), or of all n."""
    rank = diagonal.argsort(1, descending=True).argsort(1).amin(0)  # (n,)
    return rank.topk(min(LONGEST * len(diagonal), len(rank)), largest=False).indices


def linear_rows(x: Tensor, squares: Tensor, longest: Tensor) -> Tensor:
    """Row sums of x x^T without the diagonal, (n,) in float64."""
    rows = (x @ x.sum(0) - squares).double()
    # A long row cancels out of this difference with most digits, so its sum is made of the others.
    far, others = x[longest].double(), x.new_ones(len(x)).index_fill(0, longest, 0) @ x
    return rows.index_copy(0, longest, product_with_others(far, others.double() + far.sum(0)))


def recomputed(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function whose intermediate results the backward pass makes again."""
    from torch.utils.checkpoint import checkpoint  # which imports PyTorch 2.6's compiler

    return checkpoint(function, *arguments, use_reentrant=False)


def product_with_others(rows: Tensor, total: Tensor) -> Tensor:
    """x_i . sum_{j != i} x_j. The sum comes first: a long x_i would cancel out of the products."""
    products: Tensor = torch.linalg.vecdot(rows, total - rows)
    return products
