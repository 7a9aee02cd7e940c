r"""STRUCTURE at several levels, one block of rows at a time: any rows, any temperature.

.. math::
    R_1 &= Q_I, \qquad R_l = R_{l-1} Q \\
    Z_L &= G_L, \qquad Z_{l-1} = G_{l-1} + Z_l Q^\top, \qquad
    dQ = \sum_{l \ge 2} R_{l-1}^\top Z_l + E_I^\top Z_1

with :math:`R_l` the rows I of :math:`Q^l`, :math:`G_l` the slopes of the divergence by them and
:math:`E_I` the rows I of the identity. P, Q and dQ are the only (n, n) matrices.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES, least_probability
from structure_reg._kernels.frozen import Frozen, FrozenWalks, dense_softmax
from structure_reg._kernels.options import WalkOptions
from structure_reg._tiles import slices, tile_rows


def walk_rows(
    frozen: Frozen,
    A: Tensor,
    rows: range,
    options: WalkOptions,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    """Σ_l D(Pˡ_i, Qˡ_i) / l for i in rows, and the gradient of their weighted sum by A."""
    tau, levels, divergence = options
    P = frozen if isinstance(frozen, FrozenWalks) else dense_softmax(frozen, tau)
    Q = dense_softmax(A, tau)
    dQ = torch.zeros_like(Q) if gradient else None
    D = A.new_zeros(len(rows))
    height = min(len(rows), tile_rows((2 * levels + 4) * len(A) * A.element_size()))
    for block in slices(len(rows), height):
        I = slice(rows[0] + block.start, rows[0] + block.stop)
        P_I = P.rows(I) if isinstance(P, FrozenWalks) else rows_of_powers(P, I, levels)
        R = list(rows_of_powers(Q, I, levels))
        G = []
        for l, (P_l, R_l) in enumerate(zip(P_I, R, strict=True), 1):
            D_l, G_l = divergence_and_slope(P_l, R_l, divergence)
            D[block] += D_l / l
            G.append(G_l.mul_(weights[block, None] / l))
        if dQ is not None:
            add_gradient(dQ, Q, I, R, G)
    if dQ is None:
        return D, None
    dS = dQ.mul_(Q)
    dS.addcmul_(Q, dS.sum(-1, keepdim=True), value=-1)
    return D, torch.addmm(dS @ A, dS.mT, A).div_(tau)


def rows_of_powers(P: Tensor, I: slice, levels: int) -> Iterator[Tensor]:
    """Rows I of P, P², …, Pᴸ, one matrix at a time."""
    P_l = P[I]
    yield P_l
    for _ in range(levels - 1):
        P_l = P_l @ P
        yield P_l


def divergence_and_slope(P: Tensor, Q: Tensor, divergence: str) -> tuple[Tensor, Tensor]:
    """D(P_i, Q_i) of each row, and its slope by Q."""
    least = least_probability(Q.dtype)
    P, Q = P.clamp_min(least), Q.clamp_min(least)
    G = torch.empty_like(Q)
    D = DIVERGENCE_TILES[divergence](P, Q, G)
    return D, G.div_(Q)


def add_gradient(dQ: Tensor, Q: Tensor, I: slice, R: list[Tensor], G: list[Tensor]) -> None:
    """Add the block's share of dQ, with the recursion over Z above."""
    Z = G.pop()
    for R_l in reversed(R[:-1]):
        dQ.addmm_(R_l.mT, Z)
        Z = torch.addmm(G.pop(), Z, Q.mT)
    dQ[I] += Z
