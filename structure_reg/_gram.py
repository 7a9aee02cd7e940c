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


def center_and_scale(x: Tensor) -> Tensor:
    """Centred rows whose largest entry is 1, for values that no shift and no scale changes.

    Both are constants to the gradient, which is right because they cancel out of such a value. A
    constant layer becomes exactly zero, then 0 / 0: NaN from here on.
    """
    x = center(x - x[0].detach())  # from a nearby point: a mean of 1000 costs no digits
    low, high = x.detach().aminmax()
    return x / torch.maximum(-low, high)  # (n, d), squares neither overflow nor vanish


def finite_or_zero(x: Tensor) -> Tensor:
    """x, or zeros if any entry is NaN or inf: decompositions raise on those, and 0 / 0 does not."""
    return torch.where(x.isfinite().all(), x, 0)


def square_norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vecdot(x, x)
    return norms  # (n,)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    return (square_norms(x)[:, None] + square_norms(y) - 2 * x @ y.mT).clamp_min(0)  # (n, m)


def centered_unit_rows(x: Tensor, centering: str) -> Tensor:
    """Unit rows, with the mean row subtracted "after", "before" or not at all ("none")."""
    if centering == "before":
        x = center(x)
    x = unit_rows(x)
    return center(x) if centering == "after" else x  # (n, d)


def gram(x: Tensor) -> Tensor:
    return x @ x.mT  # (n, n)


# Rows normalised at a time in float64: few enough to stay in a cache.
BLOCK = 256


def unit_deviations(x: Tensor) -> Tensor:
    """Unit rows minus a direction that they share, u_i - c, in the dtype of x.

    Cosines of rows with a large common mean differ only in the seventh digit, where float32 ends.
    Products with deviations keep every digit and rank the rows alike: u_i . (u_j - c) is the cosine
    minus a constant of row i. This holds for any c, so the mean of a few hundred rows is enough.
    """
    c = double_unit_rows(x[:: max(1, len(x) // BLOCK)]).mean(0)  # (d,)
    deviations = torch.empty_like(x)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        deviations[rows] = double_unit_rows(x[rows]) - c
    return deviations  # (n, d)


def double_unit_rows(x: Tensor) -> Tensor:
    """Unit rows in float64, where squares of float32 neither overflow nor vanish."""
    if x.dtype == torch.float64:
        return unit_rows(x)
    u = x.double()
    length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)  # (n, 1)
    return u / torch.where(length == 0, 1, length)
