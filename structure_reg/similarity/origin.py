"""Where to put the origin of features, so that one long row does not cost the others their digits.

A row that is m times as long as the others, such as a fill value of -9999, moves the mean by m / n.
Inner products of the centred rows are then all of order m² / n², and what distinguishes them lies
beyond float32. Debiased CKA, and every function of distances, is the same for any origin.
"""

from __future__ import annotations

import torch
from torch import Tensor

# From the first row to the mean, and then past one group of far rows in each round.
ROUNDS = 4
# A row is far if its distance exceeds this multiple of the median distance.
FAR = 1.5


@torch.no_grad()
def typical_row(x: Tensor) -> Tensor:
    """Mean of the rows that are not far from it, (d,). The rows of a constant x are exactly it."""
    origin = x[0]
    for _ in range(ROUNDS):
        z = x - origin
        distance = z.abs().mean(1)  # (n,), squares could overflow
        near = (distance <= FAR * distance.median()).to(x.dtype)
        origin = origin + near @ z / near.sum()
    return origin


def around_typical_row(x: Tensor) -> Tensor:
    """x minus its typical row, which is a constant to the gradient."""
    return x - typical_row(x)  # (n, d)
