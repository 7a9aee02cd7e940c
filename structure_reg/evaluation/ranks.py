"""Cosine scores for rankings, precise enough to tell nearly parallel rows apart."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._gram import unit_rows
from structure_reg._tiles import slices, tile_rows

BLOCK_ROWS = 1024  # rows in float64 at a time


def tiles(n: int, bytes_per_row: int) -> list[slice]:
    """Return slices of n rows that fit the tile budget."""
    return slices(n, tile_rows(bytes_per_row))


def unit_deviations(x: Tensor) -> Tensor:
    """Subtract the mean c from unit rows w: u·(w - c) ranks the rows as u·w does.

    Cosines of features in a narrow cone differ in the seventh digit, at the limit of float32.
    Without their common part, all digits are left to tell them apart.
    """
    blocks = torch.split(x, BLOCK_ROWS)
    c = torch.stack([unit_rows(rows.double()).sum(0) for rows in blocks]).sum(0) / len(x)  # (d,)
    return torch.cat([(unit_rows(rows.double()) - c).to(x.dtype) for rows in blocks])


def score_rounding(gallery: Tensor) -> Tensor:
    """Bound the difference between the products of one unit row with two equal rows."""
    longest = gallery.square().sum(-1).amax().sqrt()
    eps = torch.finfo(gallery.dtype).eps
    return 8 * eps * longest + 64 * torch.finfo(torch.float64).eps


def nan_of(*tensors: Tensor) -> Tensor:
    """Return NaN if any value is not finite, otherwise 0: comparisons alone would hide it."""
    return torch.stack([0 * x.sum(dtype=torch.float64) for x in tensors]).sum()
