"""STRUCTURE at one level from the upper triangle alone: half the products of the row tiles.

Both Gram matrices are symmetric, and so is dS + dSᵀ, which is all that the gradient needs. Each
pair i < j is therefore multiplied once and serves both rows, provided that its entries are kept
from one pass to the next: n² numbers for the two triangles, which limits n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import EXTRA_TILES
from structure_reg._kernels.frozen import Frozen, FrozenWalks
from structure_reg._kernels.options import WalkOptions
from structure_reg._kernels.symmetric import (
    STRIP,
    PairSums,
    Strip,
    fill_strips,
    strip_scratch,
    strip_slices,
)
from structure_reg._tiles import fits


def triangles_fit(A: Tensor, divergence: str) -> bool:
    """Whether the tile budget holds both triangles and the strips needed to compare them."""
    strips = 5 + EXTRA_TILES[divergence]  # four of scratch, and one that `fill_strips` takes
    return fits(len(A) * (len(A) + strips * STRIP) * A.element_size())


def triangle_rows(
    frozen: Frozen, A: Tensor, options: WalkOptions, weights: Tensor, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Return what :func:`neighbour_rows` does for all rows, in n² (d0 + 3d) operations."""
    tau = options.temperature
    strips = strip_slices(len(A))
    shapes = [(I.stop - I.start, len(A) - I.start) for I in strips]
    slopes, Q = ([A.new_empty(shape) for shape in shapes] for _ in range(2))
    y = fill_strips(A, tau, Q)
    if isinstance(frozen, FrozenWalks):
        y_P, (M_1,) = frozen
        P = [M_1[I, I.start :] for I in strips]
    else:
        P = slopes  # each strip's slopes overwrite its walk
        y_P = fill_strips(frozen, tau, P)
    scratch = strip_scratch(A)
    pairs = PairSums(options.divergence, weights, scratch, A.new_zeros(3, len(A)))
    for I, p, q, slope in zip(strips, P, Q, slopes, strict=True):
        pairs.add(Strip(I, p, y_P), Strip(I, q, y), out=slope)
    D, row_sums, _ = pairs.sums
    if not gradient:
        return D, None
    dA = torch.zeros_like(A)
    u = -row_sums / y
    for I, slope, M in zip(strips, slopes, Q, strict=True):
        # dS + dSᵀ = Q ∘ G + (Q ∘ G)ᵀ + M ∘ (u yᵀ + y uᵀ)
        outer = torch.mul(u[I, None], y[I.start :], out=scratch[0][: M.numel()].view_as(M))
        dS = slope.addcmul_(M, outer.addcmul_(y[I, None], u[I.start :]))
        dA[I].addmm_(dS, A[I.start :], alpha=1 / tau)
        dA[I.stop :].addmm_(dS[:, len(M) :].mT, A[I], alpha=1 / tau)
    return D, dA
