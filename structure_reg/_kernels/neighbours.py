"""STRUCTURE at one level, a tile of rows at a time: no (n, n) matrix exists."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES
from structure_reg._tiles import tile_rows

TILES = 5
"""Scratch tiles alive at once."""


def neighbour_rows(
    X: Tensor,
    A: Tensor,
    rows: range,
    temperature: float,
    divergence: str,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""D(P_i, Q_i) for i in rows, and the gradient of their weighted sum by A.

    .. math::
        P &= \operatorname{rowsoftmax}(X X^\top / \tau), \qquad
        Q = \operatorname{rowsoftmax}(A A^\top / \tau) \\
        dS &= w \, Q \circ (G - \textstyle\sum_j G_j Q_j), \qquad
        dA = (dS + dS^\top) A / \tau

    with G the slope of D by Q. Both products of dS need only the rows at hand, so value and
    gradient come from one pass: 2|rows|n (d0 + 3d) operations.

    Parameters
    ----------
    X, A : Tensor of shape (n, d0), (n, d)
        Centred unit rows.
    weights : Tensor of shape (len(rows),)
        Of the rows in the sum that is differentiated.
    """
    n = len(A)
    divergence_tile = DIVERGENCE_TILES[divergence]
    height = min(len(rows), tile_rows(TILES * n * A.element_size()))
    scratch = [A.new_empty(height, n) for _ in range(3)]
    D = A.new_empty(len(rows))
    dA = torch.zeros_like(A) if gradient else None
    for start in range(0, len(rows), height):
        here = slice(start, min(start + height, len(rows)))
        I = slice(rows[0] + here.start, rows[0] + here.stop)
        P, Q, S = (tile[: here.stop - here.start] for tile in scratch)  # (tile, n)
        softmax_tile(X[I], X, temperature, S, P)
        softmax_tile(A[I], A, temperature, S, Q)
        D[here] = divergence_tile(P, Q, S)  # now S is Q ∘ G
        if dA is None:
            continue
        dS = S.addcmul_(Q, S.sum(-1, keepdim=True), value=-1).mul_(weights[here, None])
        dA[I].addmm_(dS, A, alpha=1 / temperature)
        dA.addmm_(dS.mT, A[I], alpha=1 / temperature)
    return D, dA


def softmax_tile(x: Tensor, y: Tensor, temperature: float, S: Tensor, P: Tensor) -> None:
    """P = rowsoftmax(x yᵀ / τ), away from zero so that quotients of two are finite."""
    torch.addmm(S, x, y.mT, beta=0, alpha=1 / temperature, out=S)
    torch.softmax(S, -1, out=P).clamp_min_(torch.finfo(P.dtype).tiny)
