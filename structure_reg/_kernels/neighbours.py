"""STRUCTURE at one level, a tile of rows at a time: no (n, n) matrix exists."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES, EXTRA_TILES
from structure_reg._kernels.frozen import frozen_tile
from structure_reg._tiles import slices, tile_rows

# Taller tiles are no faster, and leave the cache of a CPU.
TILE_ROWS = 512


def neighbour_rows(
    P: list[Tensor],
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
    P : list of Tensor
        Centred unit rows X, (n, d0), alone, or what :func:`frozen_walks` made of them.
    A : Tensor of shape (n, d)
        Centred unit rows.
    weights : Tensor of shape (len(rows),)
        Of the rows in the sum that is differentiated.
    """
    n = len(A)
    divergence_tile = DIVERGENCE_TILES[divergence]
    tiles = 3 + EXTRA_TILES[divergence]
    height = min(len(rows), TILE_ROWS, tile_rows(tiles * n * A.element_size()))
    scratch = [A.new_empty(height, n) for _ in range(3)]
    D = A.new_empty(len(rows))
    dA = torch.zeros_like(A) if gradient else None
    for here in slices(len(rows), height):
        I = slice(rows[0] + here.start, rows[0] + here.stop)
        p, Q, S = (tile[: here.stop - here.start] for tile in scratch)  # (tile, n)
        if len(P) > 1:
            frozen_tile(P, 1, I, out=p)
        else:
            softmax_tile(P[0], I, temperature, S, out=p)
        softmax_tile(A, I, temperature, S, out=Q)
        D[here] = divergence_tile(p, Q, S)  # now S is Q ∘ G
        if dA is None:
            continue
        dS = S.addcmul_(Q, S.sum(-1, keepdim=True), value=-1).mul_(weights[here, None])
        dA[I].addmm_(dS, A, alpha=1 / temperature)
        dA.addmm_(dS.mT, A[I], alpha=1 / temperature)
    return D, dA


def softmax_tile(x: Tensor, I: slice, temperature: float, S: Tensor, out: Tensor) -> None:
    """Rows I of rowsoftmax(x xᵀ / τ), away from zero so that quotients of two are finite."""
    torch.addmm(S, x[I], x.mT, beta=0, alpha=1 / temperature, out=S)
    torch.softmax(S, -1, out=out).clamp_min_(torch.finfo(x.dtype).tiny)
