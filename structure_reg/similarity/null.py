"""CKA of every pair of layers with re-paired rows, at the cost of index look-ups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_flag, check_layers
from structure_reg._precision import full_precision, promote, result_dtype
from structure_reg._tiles import slices, tile_rows
from structure_reg.similarity.cka import least_rows
from structure_reg.similarity.grams import (
    KERNELS,
    WIDEST_TILE,
    Layer,
    gram_sums,
    kernel_tile,
    prepare,
)
from structure_reg.similarity.hsic import cosine, hsic, norms

# Size of a strip of the kernel matrices and of the entries looked up for it: what the cache of one
# core holds.
FLOATS_IN_CACHE = 600_000
# Entries of one float32 sum, whose rounding grows with them where few layers make it a plain loop.
LONGEST_SUM = 2**14


@torch.no_grad()
def cka_null(
    xs: Sequence[Tensor],
    ys: Sequence[Tensor],
    permutations: Tensor,
    *,
    kernel: str = "linear",
    debiased: bool = True,
) -> Tensor:
    """CKA of all pairs of layers, with row i of every x paired with row permutations[b, i] of y.

    A permutation of the rows changes neither the norm of a layer nor its margins, apart from their
    order. Only the inner products of the kernels change; they are look-ups in Gram matrices that
    are computed once.

    Parameters
    ----------
    xs, ys : sequence of Tensor of shape (n, d)
        Layers of two encoders for the same samples; widths may differ.
    permutations : Tensor of shape (B, n)
        Permutations of 0 .. n - 1 in int64, shared by all pairs of layers.
    kernel, debiased
        Form of CKA, as in :func:`cka`.

    Returns
    -------
    Tensor of shape (B, LA, LB)
        CKA for each permutation and pair of layers; no gradient. Scratch memory is one centred copy
        of every layer, plus the Gram matrices of as many y as fit the :func:`tile_budget`, but at
        least one (4 n^2 bytes). It is slower the fewer fit, because a look-up costs the same for
        one layer as for twelve.
    """
    debiased = check_flag("cka_null", "debiased", debiased)
    check_layers("cka_null", rows=least_rows(debiased), xs=xs, ys=ys)
    check_choice("cka_null", "kernel", kernel, KERNELS)
    dtype = result_dtype(*xs, *ys)
    with full_precision(permutations.device):
        x_layers, y_layers = ([prepare(x.to(dtype), kernel) for x in side] for side in (xs, ys))
        inner, margins = gram_sums([*x_layers, *y_layers])
        roots = norms(inner, margins, debiased=debiased, eps=torch.finfo(dtype).eps)
        LA = len(xs)
        x, y = margins.at(slice(LA)), margins.at(slice(LA, None))
        D = permuted_inner(x_layers, y_layers, permutations)  # (B, LA, LB)
        H = torch.stack(
            [
                hsic(D_p, x, y.at((..., p)), debiased=debiased)
                for D_p, p in zip(D, permutations, strict=True)
            ]
        )
        return cosine(H, roots[:LA], roots[LA:], debiased=debiased).to(dtype)


def permuted_inner(
    x_layers: Sequence[Layer], y_layers: Sequence[Layer], permutations: Tensor
) -> Tensor:
    """Sums over i != j of K_ij L_{p_i p_j} for all pairs of layers, (B, LA, LB) in float64."""
    n, itemsize = permutations.shape[1], y_layers[0].x.element_size()
    at_once = max(1, tile_rows(itemsize * n) // n)
    groups = [y_layers[l : l + at_once] for l in range(0, len(y_layers), at_once)]
    return torch.cat([permuted_group(x_layers, group, permutations) for group in groups], 2)


def permuted_group(
    x_layers: Sequence[Layer], y_layers: Sequence[Layer], permutations: Tensor
) -> Tensor:
    n, LA, LB = permutations.shape[1], len(x_layers), len(y_layers)
    dtype = result_dtype(*(layer.x for layer in (*x_layers, *y_layers)))
    table = gram_table(y_layers, dtype)  # (n, n * LB)
    D = table.new_zeros(len(permutations), LA, LB, dtype=torch.float64)
    for i, K in strips(x_layers, min(FLOATS_IN_CACHE // (LA + 2 * LB), LONGEST_SUM)):
        rows = K.shape[1]
        K = K.flatten(1).to(dtype)  # (LA, |a| * |rest|)
        for D_p, p in zip(D, permutations, strict=True):
            # Whole rows first, which are contiguous, then their columns, by now in the cache.
            L = table.index_select(0, p[i : i + rows]).view(rows, n, LB).index_select(1, p[i:])
            D_p += K @ L.view(-1, LB)
    return 2 * D


def strips(layers: Sequence[Layer], entries: int) -> Iterator[tuple[int, Tensor]]:
    """Yield i and rows i, i + 1, ... of the kernel matrices above the diagonal, (L, rows, n - i).

    A strip has about `entries` entries per matrix. Strips are cut from larger blocks, because
    products of few rows are slow.
    """
    n, itemsize = layers[0].x.shape[0], layers[0].x.element_size()
    block = min(WIDEST_TILE, tile_rows(2 * itemsize * len(layers) * n))
    for start in range(0, n, block):
        a, rest = slice(start, min(start + block, n)), slice(start, n)
        K = torch.stack(promote(*(kernel_tile(layer, a, rest).triu(1) for layer in layers)))
        i = a.start
        while i < a.stop:
            rows = min(max(1, entries // (n - i)), a.stop - i)
            yield i, K[:, i - start : i - start + rows, i - start :]
            i += rows


def gram_table(layers: Sequence[Layer], dtype: torch.dtype) -> Tensor:
    """Gram matrices with the layers innermost, so that one look-up serves all layers."""
    n = layers[0].x.shape[0]
    table = layers[0].x.new_empty(n, n, len(layers), dtype=dtype)
    for l, layer in enumerate(layers):
        for a in slices(n, WIDEST_TILE):
            table[a, :, l] = kernel_tile(layer, a, slice(0, n))
    return table.view(n, -1)
