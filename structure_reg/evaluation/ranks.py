"""The scores that rankings are made of: tiles of cosines, told apart to the last digit."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._gram import unit_rows
from structure_reg._tiles import slices, tile_rows

# Rows that are normalised at a time: float64 only for a few of them.
ROWS = 1024


def tiles(n: int, bytes_per_row: int) -> list[slice]:
    """Slices of n rows that fit the tile budget."""
    return slices(n, tile_rows(bytes_per_row))


def unit_deviations(x: Tensor) -> Tensor:
    """Unit rows less their mean c: u·(w - c) ranks rows w as u·w does.

    Features in a narrow cone have cosines that differ in the seventh digit, where float32 ends.
    Less what they share, all digits tell them apart.
    """
    blocks = torch.split(x, ROWS)
    c = torch.stack([unit_rows(rows.double()).sum(0) for rows in blocks]).sum(0) / len(x)  # (d,)
    return torch.cat([(unit_rows(rows.double()) - c).to(x.dtype) for rows in blocks])


def score_rounding(gallery: Tensor) -> Tensor:
    """How far apart the products of one unit row with two equal rows may come out."""
    longest = gallery.square().sum(-1).amax().sqrt()
    eps = torch.finfo(gallery.dtype).eps
    return 8 * eps * longest + 64 * torch.finfo(torch.float64).eps


def nan_of(*tensors: Tensor) -> Tensor:
    """0, or NaN if a tensor holds a value that is not finite: comparisons would hide it."""
    return torch.stack([0 * x.sum(dtype=torch.float64) for x in tensors]).sum()
