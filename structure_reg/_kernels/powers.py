r"""STRUCTURE at several levels in the symmetric form: about half the products of (n, n) matrices.

Powers of a symmetric M are symmetric, so half of each is multiplied and half mirrored. The gradient
by M of all levels together follows from a recursion of one product a level: with
:math:`\Gamma_l = \operatorname{sym}(y^{-1} G_l \, y)`, :math:`Z_L = \Gamma_L` and

.. math:: U_j = Z_{j+1} M, \qquad Z_j = \Gamma_j + U_j + U_j^\top / j,

:math:`Z_1` is :math:`\sum_l \sum_{k<l} M^k \Gamma_l M^{l-1-k}`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.frozen import frozen_walks
from structure_reg._kernels.symmetric import (
    STRIP,
    compare_both_ways,
    dense_walk,
    mirror,
    strip_slices,
    symmetric_product,
)


def power_rows(
    P: list[Tensor],
    A: Tensor,
    temperature: float,
    levels: int,
    divergence: str,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Σ_l D(Pˡ_i, Qˡ_i) / l of each row, and the gradient by A of their weighted sum."""
    n = len(A)
    strips = strip_slices(n)
    prepared = len(P) > 1
    y_P, *P_powers = P if prepared else frozen_walks(P[0], temperature, levels)
    Q, y_Q = dense_walk(A, temperature)
    Q_l = Q
    scratch = [A.new_empty(min(STRIP, n) * n) for _ in range(4)]
    D, by_row, by_column = A.new_zeros(3, n)
    slopes = [torch.empty_like(P_l) for P_l in P_powers] if prepared else P_powers
    tiny = torch.finfo(A.dtype).tiny
    for l, (P_l, G_l) in enumerate(zip(P_powers, slopes, strict=True), 1):
        if l > 1:
            Q_l = symmetric_product(Q_l, Q)
        sums = A.new_zeros(3, n)
        for I in strips:
            p, q, g = (M[I, I.start :] for M in (P_l, Q_l, G_l))
            compare_both_ways((p, y_P), (q, y_Q), I, divergence, weights / l, scratch, sums, out=g)
            g.div_(q.clamp_min(tiny)).mul_(0.5)  # (Q ∘ G) / M is y⁻¹ G y
        mirror(G_l)  # Γ_l
        D += sums[0] / l
        by_row += sums[1]
        by_column += sums[2]
    if not gradient:
        return D, None
    Z = slopes[-1]
    for j in range(levels - 1, 0, -1):
        U = torch.mm(Z, Q, out=Q_l)
        Z = slopes[j - 1].add_(U)
        for I in strips:
            Z[I].add_(U[:, I].mT, alpha=1 / j)
    T = Z.mul_(Q)
    u = ((by_column - by_row) / 2 - T.sum(-1)) / y_Q
    dA = torch.empty_like(A)
    for I in strips:
        # dS + dSᵀ = 2 T + M ∘ (u yᵀ + y uᵀ)
        outer = torch.mul(u[I, None], y_Q, out=scratch[0][: Q[I].numel()].view_as(Q[I]))
        outer.addcmul_(y_Q[I, None], u).mul_(Q[I]).add_(T[I], alpha=2)
        torch.mm(outer, A, out=dA[I])
    return D, dA.div_(temperature)
