"""Where to put the origin of features, so that one long row does not cost the others their digits.

A row that is m times as long as the others, such as a fill value of -9999, moves the mean by m / n.
Inner products of the centred rows are then all of order m² / n², and what distinguishes them lies
beyond float32. Debiased CKA, and every function of distances, is the same for any origin.
"""

from __future__ import annotations

import torch
from torch import Tensor

# From the first row to the mean, and then past one group of far rows in each round.
ROUNDS = 3
# A row is far if its distance exceeds this multiple of the median distance.
FAR = 1.5
# Rows processed at a time: few enough to stay in a cache.
BLOCK = 512


@torch.no_grad()
def typical_row(x: Tensor) -> Tensor:
    """Mean of the rows that are not far from it, (d,). The rows of a constant x are exactly it."""
    origin, blocks = x[0], torch.split(x, BLOCK)
    for _ in range(ROUNDS):
        distance = torch.cat([torch.linalg.vector_norm(rows - origin, dim=1) for rows in blocks])
        near = (distance <= FAR * distance.median()).to(x.dtype)  # (n,)
        weights = torch.split(near, BLOCK)
        shift = torch.stack([w @ (rows - origin) for w, rows in zip(weights, blocks, strict=True)])
        origin = origin + shift.sum(0) / near.sum()
    return origin


def around_typical_row(x: Tensor) -> Tensor:
    """x minus its typical row, which is a constant to the gradient."""
    return x - typical_row(x)  # (n, d)
