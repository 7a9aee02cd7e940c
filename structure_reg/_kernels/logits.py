"""Z = s X̂ Ŷᵀ, unit rows of x against unit rows of y, by tiles of rows; and its gradient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from structure_reg._tiles import slices


class Logits:
    """The tiles of Z for x (n, d) and y (N, d), computed in the dtype of s.

    Made of scratch: a tile is gone with the next. Beside it stand Ŷ whole and X̂ of one tile.
    """

    def __init__(self, x: Tensor, y: Tensor, s: Tensor, rows: int) -> None:
        self.x, self.s, self.rows = x, s, rows
        self.y_hat, self.y_inverse = unit_rows_and_inverse(y, s.dtype)
        self.scratch = s.new_empty(2, min(rows, len(x)), len(y))

    def tiles(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows I of the next tile, and two buffers (B, N) for it."""
        for I in slices(len(self.x), self.rows):
            self.x_hat, self.x_inverse = unit_rows_and_inverse(self.x[I], self.s.dtype)
            yield I, *self.scratch[:, : len(self.x_hat)]

    def product(self, out: Tensor) -> Tensor:
        """Z_I, (B, N). The scale goes in here, in full precision."""
        return torch.mm(self.s * self.x_hat, self.y_hat.mT, out=out)


class LogitsGradient:
    """∂X̂ = s G Ŷ, ∂Ŷ = s Gᵀ X̂ and ∂s = ⟨G Ŷ, X̂⟩, from the tiles of G = ∂Z.

    `needs` says whether x and y want theirs; those that do not are left out, and are empty.
    """

    def __init__(self, logits: Logits, needs: Sequence[bool]) -> None:
        self.logits, (self.x_needs, self.y_needs) = logits, needs
        x, y_hat = logits.x, logits.y_hat
        self.d_x = x.new_empty(x.shape if self.x_needs else 0)
        self.d_y_hat = y_hat.new_zeros(y_hat.shape if self.y_needs else 0)
        self.d_s = torch.zeros_like(logits.s)

    def add(self, I: slice, G: Tensor) -> None:
        logits = self.logits
        if self.y_needs:
            self.d_y_hat.addmm_(G.mT, logits.x_hat)  # (N, d), times s at the end
        if self.x_needs or not self.y_needs:
            Gy = G @ logits.y_hat  # (B, d)
            self.d_s += torch.linalg.vecdot(Gy, logits.x_hat).sum()
            if self.x_needs:
                self.d_x[I] = unit_rows_gradient(logits.x_hat, logits.x_inverse, Gy.mul_(logits.s))

    def result(self, y_dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.logits
        if not self.y_needs:
            return self.d_x, self.d_y_hat.to(y_dtype), self.d_s
        if not self.x_needs:
            self.d_s = torch.linalg.vecdot(self.d_y_hat, logits.y_hat).sum()
        d_y = unit_rows_gradient(logits.y_hat, logits.y_inverse, self.d_y_hat.mul_(logits.s))
        return self.d_x, d_y.to(y_dtype), self.d_s


def empty_gradient(
    x: Tensor, y: Tensor, s: Tensor, needs: Sequence[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The shapes of a :class:`LogitsGradient`, for compilers."""
    d_x, d_y = (t.new_empty(t.shape if need else 0) for t, need in zip((x, y), needs, strict=True))
    return d_x, d_y, torch.empty_like(s)


def unit_rows_and_inverse(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x_i / |x_i| and 1 / |x_i|, (n, d) and (n, 1), in `dtype`; both 0 for a zero row."""
    x = x.to(dtype)
    largest = x.abs().amax(1, keepdim=True)  # first, so that squares neither overflow nor vanish
    largest = torch.where(largest == 0, 1, largest)
    x = x / largest
    squared = torch.linalg.vecdot(x, x).unsqueeze(1)
    inverse = torch.where(squared == 0, 0, squared.rsqrt())
    return x.mul_(inverse), inverse.div_(largest)


def unit_rows_gradient(x_hat: Tensor, inverse: Tensor, grad: Tensor) -> Tensor:
    """(g_i - x̂_i ⟨x̂_i, g_i⟩) / |x_i|, in the memory of `grad`."""
    along = torch.linalg.vecdot(x_hat, grad).unsqueeze(1)
    return grad.addcmul_(x_hat, along, value=-1).mul_(inverse)
