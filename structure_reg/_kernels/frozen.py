"""The frozen side of the term, made once: walks of every length, ready to be compared.

A list [y, M_1, …, M_L] with Pˡ = M_l y on the right and divided by y on the left. Where the
symmetric form is safe, M_l is symmetric; elsewhere y is 1 and M_l is the walk itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structure_reg._kernels.symmetric import (
    dense_walk,
    exponents_fit,
    symmetric_product,
    walk_tile,
)


def frozen_walks(X: Tensor, temperature: float, levels: int) -> list[Tensor]:
    """Walks of 1 to L steps over centred unit rows X, (n, d0): y, (n,), and L times (n, n)."""
    if exponents_fit(X.dtype, temperature):
        M, y = dense_walk(X, temperature)
        product: Callable[[Tensor, Tensor], Tensor] = symmetric_product
    else:
        M, y = torch.softmax(X @ X.mT / temperature, -1), X.new_ones(len(X))
        product = torch.matmul
    powers = [M]
    for _ in range(levels - 1):
        powers.append(product(powers[-1], M))
    return [y, *powers]


def frozen_tile(P: list[Tensor], l: int, I: slice, out: Tensor) -> Tensor:
    """Rows I of a walk of l steps."""
    y, M_l = P[0], P[l]
    return walk_tile(M_l[I], y[I, None], y, out)
