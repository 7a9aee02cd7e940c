"""The bandwidth of a radial kernel: the median distance between two rows."""

from __future__ import annotations

import torch
from torch import Tensor


def median_squared_distance(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 of the median pair i < j, the lower one of two."""
    n = x.shape[0]
    squares = x.square().sum(1)
    distance = squares[:, None] + squares - 2 * x @ x.mT
    i, j = torch.triu_indices(n, n, 1, device=x.device)
    pair = distance.detach()[i, j].kthvalue((i.numel() + 1) // 2).indices
    return (x[i[pair]] - x[j[pair]]).square().sum()
