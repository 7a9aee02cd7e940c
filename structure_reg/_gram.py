"""From rows to a kernel: unit length, centring, and products of rows with one another."""

from __future__ import annotations

import torch
from torch import Tensor

# Error of a squared distance, in machine epsilons of the squared lengths.
ROUNDING = 8


def unit_rows(x: Tensor) -> Tensor:
    """x_i / |x_i|. A zero row has no direction: it stays zero, with zero gradient."""
    x, _ = rows_by_largest_entry(x)
    squared = x.square().sum(-1, keepdim=True)  # (n, 1), at least 1 except for a zero row
    return x * torch.where(squared == 0, 0, torch.where(squared == 0, 1, squared).rsqrt())


def unit_rows_and_inverse(x: Tensor) -> tuple[Tensor, Tensor]:
    """x_i / |x_i| and 1 / |x_i|, (n, d) and (n, 1), both 0 for a zero row; without autograd."""
    x, largest = rows_by_largest_entry(x)
    squared = torch.linalg.vecdot(x, x).unsqueeze(-1)
    inverse = torch.where(squared == 0, 0, squared.rsqrt())
    return x.mul_(inverse), inverse.div_(largest)


def unit_rows_gradient(x_hat: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    """(g_i - x̂_i ⟨x̂_i, g_i⟩) / |x_i|, in the memory of `grad`."""
    along = torch.linalg.vecdot(x_hat, grad).unsqueeze(-1)
    return grad.addcmul_(x_hat, along, value=-1).mul_(inverse)


def rows_by_largest_entry(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row over its largest entry, (n, d), and that entry, (n, 1), or 1 for a zero row.

    Squares of such rows neither overflow nor vanish. The entry is a constant to the gradient, since
    it cancels out of a unit row.
    """
    largest = x.detach().abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1, largest)
    return x / largest, largest


def center(x: Tensor) -> Tensor:
    """x_i minus the mean row."""
    return x - x.mean(-2, keepdim=True)  # (n, d)


def center_and_scale(x: Tensor) -> Tensor:
    """Centred rows whose largest entry is 1, for values that no shift and no scale changes.

    Both are constants to the gradient, which is right because they cancel out of such a value. A
    constant layer becomes exactly zero, then 0 / 0: every value computed from it is NaN.
    """
    x = center(x - x[0].detach())  # relative to a nearby point: a mean of 1000 costs no digits
    low, high = x.detach().aminmax()
    return x / torch.maximum(-low, high)  # (n, d), squares neither overflow nor vanish


def finite_or_zero(x: Tensor) -> Tensor:
    """x, or zeros if any entry is NaN or inf: decompositions raise on those, and 0 / 0 does not."""
    return torch.where(x.isfinite().all(), x, 0)


def square_norms(x: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vecdot(x, x)
    return norms  # (n,)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2, (n, m). What could be rounding is 0, as between equal rows far from 0."""
    squares = square_norms(x)[:, None] + square_norms(y)
    distances = squares - 2 * x @ y.mT
    return torch.where(distances <= ROUNDING * torch.finfo(x.dtype).eps * squares, 0, distances)


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
    c = shared_direction(x)
    deviations = torch.empty_like(x)
    for start in range(0, len(x), BLOCK):
        rows = slice(start, start + BLOCK)
        deviations[rows] = double_unit_rows(x[rows]) - c
    return deviations  # (n, d)


def shared_direction(x: Tensor) -> Tensor:
    """c, the mean of a few hundred unit rows, in float64."""
    return double_unit_rows(x[:: max(1, len(x) // BLOCK)]).mean(0)  # (d,)


def double_unit_rows(x: Tensor) -> Tensor:
    """Unit rows in float64, where squares of float32 neither overflow nor vanish."""
    if x.dtype == torch.float64:
        return unit_rows(x)
    u = x.double()
    length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)  # (n, 1)
    return u / torch.where(length == 0, 1, length)
