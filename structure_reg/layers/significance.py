"""What a grid of scores means beside the grids of the same layers with their rows re-paired."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The level at which a score counts as more than chance.
ALPHA = 0.05
# Scores no further apart than this are equal, which counts against the observed one.
ROUNDING = 1e-6


class Significance(NamedTuple):
    """Five (LA, LB) grids, NaN where the score is."""

    chance: Tensor  # mean score of re-paired rows
    excess: Tensor  # score above chance
    p_values: Tensor  # of a score this far above chance anywhere in the grid
    q_values: Tensor  # false-discovery rate of calling this pair and all better ones related
    calibrated: Tensor  # 0 up to the chance threshold of the whole grid, 1 at a score of 1


def significance(scores: Tensor, null: Tensor, chance: Tensor | None) -> Significance:
    """Compare (LA, LB) scores with (B, LA, LB) scores of re-paired rows.

    The observed pairing counts as one of the B + 1, so that under independence its rank among them
    is uniform: no p-value is below 1 / (B + 1).
    """
    B = len(null)
    undefined = scores.isnan()
    # One centre for all B + 1 pairings, the observed one among them, or ranks would not be uniform.
    centre = (null.sum(0) + scores) / (B + 1) if chance is None else chance
    excess, null_excess = scores - centre, null - centre
    largest = null_excess.nan_to_num(-math.inf).flatten(1).amax(1)  # (B,)
    p_values = (1 + (largest[:, None, None] >= excess - ROUNDING).sum(0)) / (B + 1)
    alone = (1 + (null_excess >= excess - ROUNDING).sum(0)) / (B + 1)
    pool = torch.cat([largest[:, None, None].expand_as(null), excess[None]])  # (B + 1, LA, LB)
    # An order statistic: interpolated quantiles are lower and let too many through.
    tau = centre + pool.sort(0).values[math.ceil((1 - ALPHA) * (B + 1)) - 1]
    return Significance(
        (null.mean(0) if chance is None else chance).masked_fill(undefined, math.nan),
        excess,
        p_values.double().masked_fill(undefined, math.nan),
        discovery_rates(alone.double().masked_fill(undefined, math.nan)),
        ((scores - tau) / (1 - tau)).clamp(0, 1),
    )


def discovery_rates(p: Tensor) -> Tensor:
    """Benjamini and Hochberg's step-up: the smallest rate at which each hypothesis is rejected."""
    ordered, order = p.flatten().sort()  # NaN last
    tests = (~p.isnan()).sum()
    rank = torch.arange(1, p.numel() + 1, device=p.device)
    rates = (ordered * tests / rank).nan_to_num(math.inf).flip(0).cummin(0).values.flip(0)
    q = torch.empty_like(ordered).scatter_(0, order, rates.clamp(max=1))
    return q.view_as(p).masked_fill(p.isnan(), math.nan)
