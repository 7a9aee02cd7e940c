"""The gradient of rows of unit length, written out."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows_and_inverse(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x_i / |x_i| and 1 / |x_i|, (n, d) and (n, 1), in `dtype`; both 0 for a zero row."""
    x = x.to(dtype)
    largest = x.abs().amax(1, keepdim=True)  # first, so that squares neither overflow nor vanish
    inverse = torch.where(largest == 0, 0, largest.reciprocal())
    x = x * inverse
    squared = torch.linalg.vecdot(x, x).unsqueeze(1)
    length = torch.where(squared == 0, 0, squared.rsqrt())
    return x.mul_(length), inverse.mul_(length)


def unit_rows_gradient(x_hat: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    """(g_i - x̂_i ⟨x̂_i, g_i⟩) / |x_i|, in the memory of `grad`."""
    along = torch.linalg.vecdot(x_hat, grad).unsqueeze(1)
    return grad.addcmul_(x_hat, along, value=-1).mul_(inverse)
