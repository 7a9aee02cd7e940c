"""Z = s X̂ Ŷᵀ, unit rows of x against unit rows of y, in tiles of rows; and its gradient."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import unit_rows_and_inverse, unit_rows_gradient
from structure_reg._tiles import slices


class Tiling(NamedTuple):
    """Where this process's rows of Z lie, and how they are tiled. Operators take it as integers."""

    first: int  # row of y that is the partner of the first row of x
    height: int  # rows of a tile
    kept: int = 0  # rows of Z that the forward pass keeps; they end with a tile


class Logits:
    """The tiles of Z for x (n, d) and y (N, d), computed in the dtype of s.

    Tiles share two buffers, so each is valid until the next. Besides them, memory holds the whole
    of Ŷ and one tile of X̂.
    """

    def __init__(self, x: Tensor, y: Tensor, s: Tensor, height: int) -> None:
        self.x, self.s, self.height = x, s, height
        self.y_hat, self.y_inverse = unit_rows_and_inverse(y.to(s.dtype))
        self.buffers = s.new_empty(2, min(height, len(x)), len(y))

    def tiles(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Rows I of the next tile, and two buffers (B, N) for it."""
        for I in slices(len(self.x), self.height):
            self.x_hat, self.x_inverse = unit_rows_and_inverse(self.x[I].to(self.s.dtype))
            yield I, *self.buffers[:, : len(self.x_hat)]

    def product(self, out: Tensor) -> Tensor:
        """Z_I, (B, N). The scale is applied before the product, in full precision."""
        return torch.mm(self.s * self.x_hat, self.y_hat.mT, out=out)


class LogitsGradient:
    """∂X̂ = s G Ŷ, ∂Ŷ = s Gᵀ X̂ and ∂s = ⟨G Ŷ, X̂⟩, summed over the tiles of G = ∂Z.

    `needs` says whether x and y need a gradient; one that is not needed is empty. All are in the
    dtype of s: in that of x, half precision could lose what a later factor would restore.
    """

    def __init__(self, logits: Logits, needs: Sequence[bool]) -> None:
        self.logits, (self.x_needs, self.y_needs) = logits, needs
        x, y_hat = logits.x, logits.y_hat
        self.d_x = y_hat.new_empty(x.shape if self.x_needs else 0)
        self.d_y_hat = y_hat.new_zeros(y_hat.shape if self.y_needs else 0)
        self.d_s = torch.zeros_like(logits.s)

    def add(self, I: slice, G: Tensor) -> None:
        logits = self.logits
        if self.y_needs:
            self.d_y_hat.addmm_(G.mT, logits.x_hat)  # (N, d), multiplied by s in `result`
        if self.x_needs or not self.y_needs:
            Gy = G @ logits.y_hat  # (B, d)
            self.d_s += torch.linalg.vecdot(Gy, logits.x_hat).sum()
            if self.x_needs:
                self.d_x[I] = unit_rows_gradient(logits.x_hat, logits.x_inverse, Gy.mul_(logits.s))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.logits
        if not self.y_needs:
            return self.d_x, self.d_y_hat, self.d_s
        if not self.x_needs:
            self.d_s = torch.linalg.vecdot(self.d_y_hat, logits.y_hat).sum()
        d_y = unit_rows_gradient(logits.y_hat, logits.y_inverse, self.d_y_hat.mul_(logits.s))
        return self.d_x, d_y, self.d_s


def empty_gradient(x: Tensor, y: Tensor, s: Tensor, needs: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """The shapes of the gradients by x and y, for compilers."""
    d_x, d_y = (s.new_empty(t.shape if need else 0) for t, need in zip((x, y), needs, strict=True))
    return d_x, d_y


def exp_below(Z: Tensor, shift: Tensor, out: Tensor) -> Tensor:
    """exp(Z - shift), where the shift is the largest, kept away from subnormal numbers.

    Processors are up to 100 times slower with those. The least value, 1e-26 in float32, is far
    below the rounding of a sum that contains exp(0), and its products stay normal.
    """
    least = math.log(torch.finfo(Z.dtype).tiny) + 27
    return torch.sub(Z, shift, out=out).clamp_min_(least).exp_()
