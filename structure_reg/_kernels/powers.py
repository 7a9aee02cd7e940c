r"""STRUCTURE at several levels in the symmetric form: about half the products of (n, n) matrices.

Powers of a symmetric M are symmetric, so half of each is multiplied and half is mirrored. The
gradient by M of all levels together follows from a recursion with one product per level: with
:math:`\Gamma_l = \operatorname{sym}(y^{-1} G_l \, y)`, :math:`Z_L = \Gamma_L` and

.. math:: U_j = Z_{j+1} M, \qquad Z_j = \Gamma_j + U_j + U_j^\top / j,

:math:`Z_1` is :math:`\sum_l \sum_{k<l} M^k \Gamma_l M^{l-1-k}`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.frozen import Frozen, FrozenWalks, frozen_walks
from structure_reg._kernels.options import WalkOptions
from structure_reg._kernels.symmetric import (
    PairSums,
    SymmetricWalk,
    commuting_product,
    dense_walk,
    mirror,
    strip_scratch,
    strip_slices,
)


def power_rows(
    frozen: Frozen, A: Tensor, options: WalkOptions, weights: Tensor, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """Σ_l D(Pˡ_i, Qˡ_i) / l of each row, and the gradient of their weighted sum by A."""
    tau, levels, divergence = options
    if isinstance(frozen, FrozenWalks):
        P, slopes = frozen, [torch.empty_like(M) for M in frozen.powers]
    else:
        P = frozen_walks(frozen, tau, levels)
        slopes = P.powers  # no one else reads these walks, so Γ_l overwrites M_l
    Q = Q_l = dense_walk(A, tau)
    scratch = strip_scratch(A)
    sums = A.new_zeros(3, len(A))
    for l, (P_l, slope) in enumerate(zip(P.powers, slopes, strict=True), 1):
        if l > 1:
            Q_l = Q_l._replace(M=commuting_product(Q_l.M, Q.M))
        level = PairSums(divergence, weights / l, scratch, torch.zeros_like(sums))
        fill_slope(slope, SymmetricWalk(P_l, P.y), Q_l, level)
        sums[0] += level.sums[0] / l
        sums[1:] += level.sums[1:]
    D, row_sums, column_sums = sums
    if not gradient:
        return D, None
    Z = slope_by_kernel(slopes, Q.M, scratch=Q_l.M)
    T = Z.mul_(Q.M)
    u = ((column_sums - row_sums) / 2 - T.sum(-1)) / Q.y
    return D, slope_by_rows(T, u, Q, A, scratch[0]).div_(tau)


def fill_slope(slope: Tensor, P: SymmetricWalk, Q: SymmetricWalk, level: PairSums) -> None:
    """Add the pairs of P and Q to the sums of their level, and write Γ_l into `slope`."""
    tiny = torch.finfo(Q.M.dtype).tiny
    for I in strip_slices(len(slope)):
        strip, M = slope[I, I.start :], Q.M[I, I.start :]
        level.add(P.strip(I), Q.strip(I), out=strip)
        strip.div_(M.clamp_min(tiny)).mul_(0.5)  # (Q ∘ G) / M is y⁻¹ G y
    mirror(slope)


def slope_by_kernel(slopes: list[Tensor], M: Tensor, scratch: Tensor) -> Tensor:
    """Z_1 from Γ_1, …, Γ_L, in their memory; U_j takes that of `scratch`."""
    Z = slopes[-1]
    for j in range(len(slopes) - 1, 0, -1):
        U = torch.mm(Z, M, out=scratch)
        Z = slopes[j - 1].add_(U)
        for I in strip_slices(len(M)):
            Z[I].add_(U[:, I].mT, alpha=1 / j)
    return Z


def slope_by_rows(T: Tensor, u: Tensor, Q: SymmetricWalk, A: Tensor, scratch: Tensor) -> Tensor:
    """(dS + dSᵀ) A, where dS + dSᵀ = 2 T + M ∘ (u yᵀ + y uᵀ)."""
    dA = torch.empty_like(A)
    for I in strip_slices(len(A)):
        M = Q.M[I]
        dS = torch.mul(u[I, None], Q.y, out=scratch[: M.numel()].view_as(M))
        dS.addcmul_(Q.y[I, None], u).mul_(M).add_(T[I], alpha=2)
        torch.mm(dS, A, out=dA[I])
    return dA
