"""The frozen side of the STRUCTURE term, prepared once: walks of every length."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._kernels.divergence import least_probability
from structure_reg._kernels.symmetric import (
    commuting_product,
    dense_walk,
    exponents_fit,
    walk_tile,
)


class FrozenWalks(NamedTuple):
    """Walks of 1 to L steps over the frozen rows, Pˡ = y⁻¹ M_l y.

    Where the symmetric form is safe, M_l is symmetric; elsewhere y is 1 and M_l is the walk itself.
    """

    y: Tensor  # (n,)
    powers: list[Tensor]  # M_1, …, M_L, (n, n) each

    def rows(self, I: slice) -> Iterator[Tensor]:
        """Rows I of P, P², …, Pᴸ, one matrix at a time."""
        for M in self.powers:
            yield walk_tile(M[I], self.y[I, None], self.y, torch.empty_like(M[I]))


Frozen = Tensor | FrozenWalks
"""The frozen side of a kernel: centred unit rows X, (n, d0), or the walks over them."""


def frozen_walks(X: Tensor, temperature: float, levels: int) -> FrozenWalks:
    """Walks over centred unit rows X, (n, d0)."""
    product: Callable[[Tensor, Tensor], Tensor]
    if exponents_fit(X.dtype, temperature):
        (M, y), product = dense_walk(X, temperature), commuting_product
    else:
        M, y, product = dense_softmax(X, temperature), X.new_ones(len(X)), torch.matmul
    powers = [M]
    for _ in range(levels - 1):
        powers.append(product(powers[-1], M))
    return FrozenWalks(y, powers)


def dense_softmax(x: Tensor, temperature: float) -> Tensor:
    """rowsoftmax(x xᵀ / τ), (n, n), with 0 for what is far below all rounding."""
    S = x @ x.mT
    P = softmax_rows(S.div_(temperature), out=S)
    # Products of two probabilities should not be subnormal either.
    return torch.threshold_(P, torch.finfo(P.dtype).tiny ** 0.5, 0.0)


def softmax_rows(S: Tensor, out: Tensor) -> Tensor:
    """Row-softmax without probabilities below the least; S is overwritten."""
    least = least_probability(S.dtype)
    torch.clamp_min(S, S.amax(-1, keepdim=True) + math.log(least), out=S)  # exp would be as slow
    return torch.softmax(S, -1, out=out).clamp_min_(least)
