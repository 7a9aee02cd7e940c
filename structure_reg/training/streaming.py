"""Pairs that are not held in memory: their moments say how to scale them, a pass at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from structure_reg._distributed import sum_over_processes
from structure_reg.heads.columns import scaling
from structure_reg.heads.moments import PairMoments, rescale
from structure_reg.training._checks import check_varies
from structure_reg.training.batches import Pairs
from structure_reg.training.rows import Rows, finite_block
from structure_reg.training.side import FIT, Side
from structure_reg.training.together import gathered, together


def streamed_pairs(
    x: Rows, y: Rows, layers: tuple[Any, Any], standardise: bool
) -> tuple[tuple[Side, Side], Pairs]:
    """Both sides without heads as yet, and the scaled pairs with their moments."""
    m = moments_of_blocks(x, y)
    of_x = scaling_of_moments(x, m.n, m.mean_x, m.M_xx.diagonal(), standardise)
    of_y = scaling_of_moments(y, m.n, m.mean_y, m.M_yy.diagonal(), standardise)
    side_x, side_y = Side("x", layers[0], *of_x), Side("y", layers[1], *of_y)
    rescale(m, torch.cat([side_x.mean, side_y.mean]), torch.cat([side_x.factor, side_y.factor]))
    x, y = replace(x, scaled=side_x.scaled), replace(y, scaled=side_y.scaled)
    return (side_x, side_y), Pairs(x, y, None, moments=m)


def moments_of_blocks(x: Rows, y: Rows) -> PairMoments:
    """Moments of the rows as they are, which are finite and differ on each side."""
    first = x[:1], y[:1]
    moments, varies = together(lambda: moments_of_own(x.own, y.own, *first), x.group)
    everywhere = gathered(varies, x.group)
    check_varies(FIT, "x", any(of_x for of_x, _ in everywhere), len(x))
    check_varies(FIT, "y", any(of_y for _, of_y in everywhere), len(y))
    return moments.all_reduce(x.group)


def moments_of_own(
    x: Rows, y: Rows, first_x: Tensor, first_y: Tensor
) -> tuple[PairMoments, tuple[bool, bool]]:
    """Moments of the rows here, and whether each side has one that differs from the first."""
    moments = PairMoments()
    moments._state(FIT, first_x, first_y)  # a process may have no rows
    x_varies, y_varies = False, False
    for block in max(x, y, key=lambda rows: rows.shape[1]).blocks():
        X, Y = finite_block(FIT, "x", x, block), finite_block(FIT, "y", y, block)
        x_varies = x_varies or bool((first_x != X).any())
        y_varies = y_varies or bool((first_y != Y).any())
        moments.update(X, Y)
    return moments, (x_varies, y_varies)


def scaling_of_moments(
    rows: Rows, n: int, mean: Tensor, M: Tensor, standardise: bool
) -> tuple[Tensor, Tensor]:
    """Mean and factor of the columns, as of rows in memory; M are n times their variances."""
    mean, factor = (z.to(torch.float32) for z in scaling(n, mean, M / n, standardise))
    if len(rows.sources) == 1:
        return (mean, factor) if standardise else (torch.zeros_like(mean), torch.ones_like(mean))
    return mean, factor / mean_lengths(rows, mean, factor)


def mean_lengths(rows: Rows, mean: Tensor, factor: Tensor) -> Tensor:
    """Mean length of the scaled rows of each layer, 1 where all are 0; once for each column."""
    total = torch.zeros(len(rows.sources), dtype=torch.float64, device=rows.device)
    own = rows.own
    for block in own.blocks():
        layers = torch.split((own[block] - mean) * factor, rows.widths, 1)
        total += torch.stack([torch.linalg.vector_norm(x.double(), dim=1).sum() for x in layers])
    total = sum_over_processes(total, rows.group)
    lengths = torch.where(total == 0, 1, total / len(rows))
    return lengths.float().repeat_interleave(torch.tensor(rows.widths, device=rows.device))
