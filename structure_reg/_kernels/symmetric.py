r"""Walks over a symmetric kernel, stored once for both directions of a pair.

With :math:`K_{ij} = e^{-|a_i - a_j|^2 / 2\tau}`, :math:`v_j` proportional to
:math:`e^{|a_j|^2 / 2\tau}` and :math:`z = K v`, the row-softmax of :math:`A A^\top / \tau` is
:math:`Q_{ij} = K_{ij} v_j / z_i`. In the symmetric :math:`M = h K h`, :math:`h = \sqrt{v / z}`, it
is :math:`Q = y^{-1} M y` with :math:`y = \sqrt{v z}` on a diagonal, and so are its powers:
:math:`Q^l = y^{-1} M^l y`.

Matrices are held by strips: strip I is the rows I from their own first column on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES
from structure_reg._tiles import slices

STRIP = 256
"""Rows of a strip."""


def exponents_fit(dtype: torch.dtype, temperature: float) -> bool:
    """Whether the symmetric form is safe from underflow, told from the temperature alone.

    Centred unit rows are shorter than 2 and nearer than 2 to one another, so that 2/τ bounds every
    exponent here. Half the dtype's range is left for their products: float32 temperatures from
    0.042 on, float64 from 0.0052 on.
    """
    return 2 / temperature <= -0.55 * math.log(torch.finfo(dtype).tiny)


def strip_slices(n: int) -> list[slice]:
    return slices(n, STRIP)


def symmetric_walk(x: Tensor, temperature: float, M: list[Tensor]) -> Tensor:
    """Fill the strips of M for rows x, (n, d), and return y, (n,)."""
    strips = strip_slices(len(x))
    half_squares = x.square().sum(-1) / (2 * temperature)  # (n,)
    v = (half_squares - half_squares.amax()).exp()
    z = torch.zeros_like(v)
    scratch = x.new_empty(min(STRIP, len(x)) * len(x))
    for I, m in zip(strips, M, strict=True):
        bias = -half_squares[I.start :]
        torch.addmm(bias, x[I], x[I.start :].mT, alpha=1 / temperature, out=m)
        m.sub_(half_squares[I, None]).exp_()  # K, (strip, n - I)
        # Summed in pairs, as a matrix-vector product is not: an error here scales a whole row.
        mv = torch.mul(m, v[I.start :], out=scratch[: m.numel()].view_as(m))
        z[I] += mv.sum(1)
        mv = torch.mul(m, v[I, None], out=mv)
        z[I.stop :] += mv[:, len(m) :].sum(0)
    h = (v / z).sqrt()
    for I, m in zip(strips, M, strict=True):
        m.mul_(h[I, None]).mul_(h[I.start :])
    return (v * z).sqrt()


def compare_both_ways(
    P: tuple[Tensor, Tensor],
    Q: tuple[Tensor, Tensor],
    I: slice,
    divergence: str,
    weights: Tensor,
    scratch: list[Tensor],
    sums: Tensor,
    out: Tensor,
) -> None:
    """Add the divergences of a strip's pairs, i to j and j to i, and their slopes.

    P and Q are (strip of M, y) of either side. `sums` holds, as (3, n), the divergence of each row,
    and the row and column sums of Q ∘ G, both weighted; `out` becomes Q ∘ G + (Q ∘ G)ᵀ, and may be
    the strip of P. G is the slope of the divergence by Q times the row's weight.
    """
    (m_P, y_P), (m_Q, y_Q) = P, Q
    J, right = slice(I.stop, None), slice(len(m_P), None)
    p, q, there, back = (tile[: m_P.numel()].view_as(m_P) for tile in scratch)
    divergence_tile = DIVERGENCE_TILES[divergence]
    D, by_row, by_column = sums

    walk_tile(m_P, y_P[I, None], y_P[I.start :], p)
    walk_tile(m_Q, y_Q[I, None], y_Q[I.start :], q)
    D[I] += divergence_tile(p, q, there)
    there *= weights[I, None]
    by_row[I] += there.sum(1)
    by_column[I.start :] += there.sum(0)

    # From the later rows J back to I, the tiles read by column.
    walk_tile(m_P[:, right], y_P[J], y_P[I, None], p[:, right])
    walk_tile(m_Q[:, right], y_Q[J], y_Q[I, None], q[:, right])
    back = back[:, right]
    D[J] += divergence_tile(p[:, right].mT, q[:, right].mT, back.mT)
    back *= weights[J]
    by_row[J] += back.sum(0)
    by_column[I] += back.sum(1)

    there[:, right] += back
    out.copy_(there)
    out[:, : len(m_P)] += there[:, : len(m_P)].mT


def walk_tile(m: Tensor, y_from: Tensor, y_to: Tensor, out: Tensor) -> Tensor:
    """Probabilities m y_to / y_from, away from zero so that quotients of two are finite."""
    return torch.mul(m, y_to, out=out).div_(y_from).clamp_min_(torch.finfo(m.dtype).tiny)


def dense_walk(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """M, (n, n), and y of rows x."""
    M = x.new_empty(len(x), len(x))
    y = symmetric_walk(x, temperature, [M[I, I.start :] for I in strip_slices(len(x))])
    return mirror(M), y


def symmetric_product(M_l: Tensor, M: Tensor) -> Tensor:
    """M_l M of two symmetric matrices that commute: the product is symmetric too."""
    product = torch.empty_like(M)
    for I in strip_slices(len(M)):
        torch.mm(M_l[I], M[:, I.start :], out=product[I, I.start :])
    return mirror(product)


def mirror(M: Tensor) -> Tensor:
    """Write the upper triangle of strips into the lower one."""
    for I in strip_slices(len(M)):
        M[I.stop :, I] = M[I, I.stop :].mT
    return M
