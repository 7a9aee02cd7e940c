"""STRUCTURE at one level from the upper triangle alone: half the products of the row tiles.

Both Gram matrices are symmetric, and so is dS + dSᵀ, the one thing that their gradient needs. A
pair i < j is therefore multiplied once and serves rows i and j, if its entries can be kept from one
pass to the next: n² numbers for both triangles, which is what limits n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import EXTRA_TILES
from structure_reg._kernels.symmetric import (
    STRIP,
    compare_both_ways,
    strip_slices,
    symmetric_walk,
)
from structure_reg._tiles import fits

SCRATCH = 4
"""Scratch strips, beside the two triangles."""


def triangles_fit(A: Tensor, divergence: str) -> bool:
    strips = 1 + SCRATCH + EXTRA_TILES[divergence]
    return fits(len(A) * (len(A) + strips * STRIP) * A.element_size())


def triangle_rows(
    P: list[Tensor],
    A: Tensor,
    temperature: float,
    divergence: str,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Return what :func:`neighbour_rows` does for all rows, in n² (d0 + 3d) operations."""
    n = len(A)
    strips = strip_slices(n)
    slopes, Q = ([A.new_empty(I.stop - I.start, n - I.start) for I in strips] for _ in range(2))
    y_Q = symmetric_walk(A, temperature, Q)
    if len(P) > 1:
        y_P, M = P
        M_P = [M[I, I.start :] for I in strips]
    else:
        M_P = slopes  # which take its place strip by strip
        y_P = symmetric_walk(P[0], temperature, M_P)
    scratch = [A.new_empty(min(STRIP, n) * n) for _ in range(SCRATCH)]
    sums = A.new_zeros(3, n)
    for I, p, q, out in zip(strips, M_P, Q, slopes, strict=True):
        compare_both_ways((p, y_P), (q, y_Q), I, divergence, weights, scratch, sums, out)
    D, QG_sum, _ = sums
    if not gradient:
        return D, None
    dA = torch.zeros_like(A)
    u = -QG_sum / y_Q
    for I, QG, q in zip(strips, slopes, Q, strict=True):
        # dS + dSᵀ = Q ∘ G + (Q ∘ G)ᵀ + M ∘ (u yᵀ + y uᵀ)
        outer = torch.mul(u[I, None], y_Q[I.start :], out=scratch[0][: q.numel()].view_as(q))
        dS = QG.addcmul_(q, outer.addcmul_(y_Q[I, None], u[I.start :]))
        dA[I].addmm_(dS, A[I.start :], alpha=1 / temperature)
        dA[I.stop :].addmm_(dS[:, len(q) :].mT, A[I], alpha=1 / temperature)
    return D, dA
