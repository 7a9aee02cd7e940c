r"""Random walks over a symmetric kernel, stored once for both directions of a pair.

With :math:`K_{ij} = e^{-|a_i - a_j|^2 / 2\tau}`, :math:`v_j` proportional to
:math:`e^{|a_j|^2 / 2\tau}` and :math:`z = K v`, the row-softmax of :math:`A A^\top / \tau` is
:math:`Q_{ij} = K_{ij} v_j / z_i`. In terms of the symmetric :math:`M = h K h`,
:math:`h = \sqrt{v / z}`, it is :math:`Q = y^{-1} M y` with :math:`y = \sqrt{v z}` on a diagonal,
and its powers are :math:`Q^l = y^{-1} M^l y`.

Matrices are processed in strips: strip I holds the rows I from column I.start on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._kernels.divergence import DIVERGENCE_TILES, least_probability
from structure_reg._tiles import slices

STRIP = 256
"""Rows of a strip."""


def exponents_fit(dtype: torch.dtype, temperature: float) -> bool:
    """Whether the symmetric form is safe from underflow, judged by the temperature alone.

    Centred unit rows are shorter than 2 and less than 2 apart, so 2/τ bounds every exponent of this
    file. Half of the dtype's range is left for their products: float32 is safe at temperatures from
    0.042 on, float64 from 0.0052 on.
    """
    return 2 / temperature <= -0.55 * math.log(torch.finfo(dtype).tiny)


def strip_slices(n: int) -> list[slice]:
    return slices(n, STRIP)


class Strip(NamedTuple):
    """Strip I of a walk y⁻¹ M y, which holds the probabilities of both directions of its pairs."""

    I: slice
    M: Tensor  # (strip, n - I.start)
    y: Tensor  # (n,)

    def forward(self, out: Tensor) -> Tensor:
        """Q_ij of rows i in I, (strip, n - I.start)."""
        return walk_tile(self.M, self.y[self.I, None], self.y[self.I.start :], out)

    def backward(self, out: Tensor) -> Tensor:
        """Q_ji from the rows j after I to i in I, transposed: (strip, n - I.stop)."""
        M = self.M[:, len(self.M) :]
        return walk_tile(M, self.y[self.I.stop :], self.y[self.I, None], out)


class SymmetricWalk(NamedTuple):
    """A walk y⁻¹ M y over n rows."""

    M: Tensor  # (n, n)
    y: Tensor  # (n,)

    def strip(self, I: slice) -> Strip:
        return Strip(I, self.M[I, I.start :], self.y)


class PairSums(NamedTuple):
    """The divergences of two walks and the slopes G by the second, summed strip by strip."""

    divergence: str
    weights: Tensor  # (n,) of the rows in the sum whose slope is G
    scratch: list[Tensor]  # see `strip_scratch`
    sums: Tensor  # (3, n) divergence of each row, and row and column sums of Q ∘ G

    def add(self, P: Strip, Q: Strip, out: Tensor) -> None:
        """Add the strip's pairs, i to j and j to i, and write Q ∘ G + (Q ∘ G)ᵀ into `out`.

        `out` may be the memory of the strip of P.
        """
        I, J, right = P.I, slice(P.I.stop, None), slice(len(P.M), None)
        p, q, QG, QG_back = (tile[: P.M.numel()].view_as(P.M) for tile in self.scratch)
        p_back, q_back, QG_back = (tile[:, right] for tile in (p, q, QG_back))
        divergence_tile = DIVERGENCE_TILES[self.divergence]
        D, row_sums, column_sums = self.sums

        D[I] += divergence_tile(P.forward(out=p), Q.forward(out=q), QG)
        QG *= self.weights[I, None]
        row_sums[I] += QG.sum(1)
        column_sums[I.start :] += QG.sum(0)

        # From the later rows J back to I, reading the tiles by column.
        P.backward(out=p_back), Q.backward(out=q_back)
        D[J] += divergence_tile(p_back.mT, q_back.mT, QG_back.mT)
        QG_back *= self.weights[J]
        row_sums[J] += QG_back.sum(0)
        column_sums[I] += QG_back.sum(1)

        QG[:, right] += QG_back
        out.copy_(QG)
        out[:, : len(P.M)] += QG[:, : len(P.M)].mT


def strip_scratch(A: Tensor) -> list[Tensor]:
    """Four buffers of the size of the largest strip over the rows of A."""
    return [A.new_empty(min(STRIP, len(A)) * len(A)) for _ in range(4)]


def walk_tile(M: Tensor, y_from: Tensor, y_to: Tensor, out: Tensor) -> Tensor:
    """Probabilities M y_to / y_from, kept away from zero so that quotients of two are finite."""
    return torch.mul(M, y_to, out=out).div_(y_from).clamp_min_(least_probability(M.dtype))


def fill_strips(x: Tensor, temperature: float, M: list[Tensor]) -> Tensor:
    """Write the strips of M for rows x, (n, d), into a list of them, and return y, (n,)."""
    strips = strip_slices(len(x))
    half_squares = x.square().sum(-1) / (2 * temperature)  # (n,)
    v = (half_squares - half_squares.amax()).exp()
    z = torch.zeros_like(v)
    scratch = x.new_empty(min(STRIP, len(x)) * len(x))
    for I, K in zip(strips, M, strict=True):
        bias = -half_squares[I.start :]
        torch.addmm(bias, x[I], x[I.start :].mT, alpha=1 / temperature, out=K)
        K.sub_(half_squares[I, None]).exp_()  # (strip, n - I.start)
        # An error in z scales a whole row. A sum adds in pairs and keeps the error small; a
        # matrix-vector product does not.
        Kv = torch.mul(K, v[I.start :], out=scratch[: K.numel()].view_as(K))
        z[I] += Kv.sum(1)
        Kv = torch.mul(K, v[I, None], out=Kv)
        z[I.stop :] += Kv[:, len(K) :].sum(0)
    h = (v / z).sqrt()
    for I, K in zip(strips, M, strict=True):
        K.mul_(h[I, None]).mul_(h[I.start :])
    return (v * z).sqrt()


def dense_walk(x: Tensor, temperature: float) -> SymmetricWalk:
    M = x.new_empty(len(x), len(x))
    y = fill_strips(x, temperature, [M[I, I.start :] for I in strip_slices(len(x))])
    return SymmetricWalk(mirror(M), y)


def commuting_product(M_l: Tensor, M: Tensor) -> Tensor:
    """M_l M of two symmetric matrices that commute, whose product is symmetric too."""
    product = torch.empty_like(M)
    for I in strip_slices(len(M)):
        torch.mm(M_l[I], M[:, I.start :], out=product[I, I.start :])
    return mirror(product)


def mirror(M: Tensor) -> Tensor:
    """Copy the upper triangle of strips into the lower one, in place."""
    for I in strip_slices(len(M)):
        M[I.stop :, I] = M[I, I.stop :].mT
    return M
