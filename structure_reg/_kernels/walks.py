r"""STRUCTURE at several levels a block of rows at a time: any rows, any temperature.

.. math::
    R_1 &= Q_I, \qquad R_l = R_{l-1} Q \\
    Z_L &= G_L, \qquad Z_{l-1} = G_{l-1} + Z_l Q^\top, \qquad
    dQ = \sum_{l \ge 2} R_{l-1}^\top Z_l + E_I^\top Z_1

with :math:`R_l` the rows I of :math:`Q^l`, :math:`G_l` the slopes of the divergence by them and
:math:`E_I` the rows I of the identity. P, Q and dQ are the only (n, n) matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES
from structure_reg._kernels.frozen import frozen_tile
from structure_reg._tiles import slices, tile_rows


def walk_rows(
    P: list[Tensor],
    A: Tensor,
    rows: range,
    temperature: float,
    levels: int,
    divergence: str,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Σ_l D(Pˡ_i, Qˡ_i) / l for i in rows, and the gradient by A of their weighted sum."""
    n = len(A)
    divergence_tile = DIVERGENCE_TILES[divergence]
    tiny = torch.finfo(A.dtype).tiny
    prepared = len(P) > 1
    P_1 = P[1] if prepared else dense_softmax(P[0], temperature)
    Q = dense_softmax(A, temperature)
    dQ = torch.zeros_like(Q) if gradient else None
    D = A.new_zeros(len(rows))
    height = min(len(rows), tile_rows((2 * levels + 4) * n * A.element_size()))
    for here in slices(len(rows), height):
        I = slice(rows[0] + here.start, rows[0] + here.stop)
        P_l, R, G = P_1[I], [Q[I]], []
        for l in range(1, levels + 1):
            if l > 1:
                R.append(R[-1] @ Q)
            if prepared:
                P_l = frozen_tile(P, l, I, torch.empty_like(R[0]))
            elif l > 1:
                P_l = P_l @ P_1
            p, q = P_l.clamp_min(tiny), R[-1].clamp_min(tiny)
            G_l = torch.empty_like(q)
            D[here] += divergence_tile(p, q, G_l) / l
            G.append(G_l.div_(q).mul_(weights[here, None] / l))
        if dQ is None:
            continue
        Z = G.pop()
        for l in range(levels, 1, -1):
            dQ.addmm_(R[l - 2].mT, Z)  # R_{l-1}ᵀ Z_l
            Z = torch.addmm(G.pop(), Z, Q.mT)
        dQ[I] += Z
    if dQ is None:
        return D, None
    dS = dQ.mul_(Q)
    dS.addcmul_(Q, dS.sum(-1, keepdim=True), value=-1)
    return D, torch.addmm(dS @ A, dS.mT, A).div_(temperature)


def dense_softmax(x: Tensor, temperature: float) -> Tensor:
    S = x @ x.mT
    return torch.softmax(S.div_(temperature), -1)
