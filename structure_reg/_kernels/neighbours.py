"""STRUCTURE at one level, one tile of rows at a time: no (n, n) matrix is ever stored."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES, EXTRA_TILES, least_probability
from structure_reg._kernels.frozen import Frozen, FrozenWalks, softmax_rows
from structure_reg._kernels.options import WalkOptions
from structure_reg._kernels.symmetric import walk_tile
from structure_reg._tiles import TILE_ROWS, slices, tile_rows


def neighbour_rows(
    frozen: Frozen,
    A: Tensor,
    rows: range,
    options: WalkOptions,
    weights: Tensor,
    gradient: bool,
) -> tuple[Tensor, Tensor | None]:
    r"""D(P_i, Q_i) for i in rows, and the gradient of their weighted sum by A.

    .. math::
        P &= \operatorname{rowsoftmax}(X X^\top / \tau), \qquad
        Q = \operatorname{rowsoftmax}(A A^\top / \tau) \\
        dS &= w \, Q \circ (G - \textstyle\sum_j G_j Q_j), \qquad
        dA = (dS + dS^\top) A / \tau

    with G the slope of D by Q. Both products with dS need only the rows of one tile, so one pass
    gives value and gradient: 2|rows|n (d0 + 3d) operations.

    Parameters
    ----------
    frozen : Frozen
        Centred unit rows X, (n, d0), or the walks over them.
    A : Tensor of shape (n, d)
        Centred unit rows.
    weights : Tensor of shape (len(rows),)
        Weights of the rows in the sum that is differentiated.
    """
    tau = options.temperature
    divergence_tile = DIVERGENCE_TILES[options.divergence]
    tiles = 3 + EXTRA_TILES[options.divergence]
    height = min(len(rows), TILE_ROWS, tile_rows(tiles * len(A) * A.element_size()))
    scratch = [A.new_empty(height, len(A)) for _ in range(3)]
    D = A.new_empty(len(rows))
    dA = torch.zeros_like(A) if gradient else None
    for tile in slices(len(rows), height):
        I = slice(rows[0] + tile.start, rows[0] + tile.stop)
        P, Q, S = (buffer[: tile.stop - tile.start] for buffer in scratch)  # (tile, n)
        if isinstance(frozen, FrozenWalks):
            walk_tile(frozen.powers[0][I], frozen.y[I, None], frozen.y, out=P)
        else:
            softmax_tile(frozen, I, tau, S, out=P)
        softmax_tile(A, I, tau, S, out=Q)
        D[tile] = divergence_tile(P, Q, S)  # S becomes Q ∘ G
        if dA is None:
            continue
        dS = S.addcmul_(Q, S.sum(-1, keepdim=True), value=-1).mul_(weights[tile, None])
        dS = flush(dS, out=P)
        dA[I].addmm_(dS, A, alpha=1 / tau)
        dA.addmm_(dS.mT, A[I], alpha=1 / tau)
    return D, dA


def softmax_tile(x: Tensor, I: slice, temperature: float, S: Tensor, out: Tensor) -> None:
    """Rows I of rowsoftmax(x xᵀ / τ), kept away from zero so that quotients of two are finite."""
    torch.addmm(S, x[I], x.mT, beta=0, alpha=1 / temperature, out=S)
    softmax_rows(S, out=out)


def flush(x: Tensor, out: Tensor) -> Tensor:
    """x with 0 for what is so small that products with it would be subnormal, and slow."""
    torch.threshold_(torch.abs(x, out=out), least_probability(x.dtype), 0.0)
    return torch.copysign(out, x, out=out)
