"""Rows to a kernel: unit length, centred, multiplied with one another."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """x_i / |x_i|. A zero row has no direction: it stays zero, with zero gradient."""  # (n, d)
    # The largest entry first, so that squares neither overflow nor vanish. It cancels out of the
    # quotient, so it needs no gradient.
    largest = x.detach().abs().amax(-1, keepdim=True)  # (n, 1)
    x = x / torch.where(largest == 0, 1, largest)
    squared = x.square().sum(-1, keepdim=True)  # (n, 1), at least 1 but for a zero row
    return x * torch.where(squared == 0, 0, torch.where(squared == 0, 1, squared).rsqrt())


def center(x: Tensor) -> Tensor:
    """x_i minus the mean row."""
    return x - x.mean(-2, keepdim=True)  # (n, d)


def centered_unit_rows(x: Tensor, centering: str) -> Tensor:
    """Unit rows, with the mean row subtracted "after", "before" or not at all ("none")."""
    if centering == "before":
        x = center(x)
    x = unit_rows(x)
    return center(x) if centering == "after" else x  # (n, d)


def gram(x: Tensor) -> Tensor:
    return x @ x.mT  # (n, n)
