"""Significance of a grid of scores against grids of the same layers with re-paired rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Level at which a score counts as better than chance.
ALPHA = 0.05
# Scores that differ by less than this count as equal, and so against the observed score.
ROUNDING = 1e-6


class Significance(NamedTuple):
    """Scores and what they mean: six (LA, LB) grids, with NaN where the score is NaN."""

    scores: Tensor
    chance: Tensor  # mean score over re-paired rows
    excess: Tensor  # score above chance
    p_values: Tensor  # probability of so large an excess anywhere in the grid by chance
    q_values: Tensor  # false-discovery rate when this pair and all better ones are called related
    calibrated: Tensor  # 0 up to the chance threshold of the whole grid, 1 at a score of 1


def significance(scores: Tensor, null: Tensor, chance: Tensor | None) -> Significance:
    """Compare scores, (LA, LB), with those of B re-pairings, (B, LA, LB).

    The observed pairing counts as one of B + 1 pairings. Under independence its rank among them is
    uniform, and no p-value is below 1 / (B + 1).
    """
    B = len(null)
    undefined = scores.isnan()
    # One reference level for all B + 1 pairings, including the observed one, keeps ranks uniform.
    center = (null.sum(0) + scores) / (B + 1) if chance is None else chance
    excess, null_excess = scores - center, null - center
    largest = null_excess.nan_to_num(-math.inf).flatten(1).amax(1)  # (B,)
    p_values = add_one(largest[:, None, None] >= excess - ROUNDING)
    pair_p_values = add_one(null_excess >= excess - ROUNDING)
    pool = torch.cat([largest[:, None, None].expand_as(null), excess[None]])  # (B + 1, LA, LB)
    # An order statistic, because interpolated quantiles are lower and admit too many scores.
    tau = center + pool.sort(0).values[math.ceil((1 - ALPHA) * (B + 1)) - 1]
    return Significance(
        scores,
        (null.mean(0) if chance is None else chance).masked_fill(undefined, math.nan),
        excess,
        p_values.masked_fill(undefined, math.nan),
        discovery_rates(pair_p_values.masked_fill(undefined, math.nan)),
        ((scores - tau) / (1 - tau)).clamp(0, 1),
    )


def add_one(reached: Tensor) -> Tensor:
    """Share of the B + 1 pairings, the observed one included, that reach the score."""
    return (1 + reached.sum(0)).double() / (1 + len(reached))


def discovery_rates(p: Tensor) -> Tensor:
    """Smallest false-discovery rate at which each hypothesis is rejected (Benjamini-Hochberg)."""
    ordered, order = p.flatten().sort()  # NaN last
    tests = (~p.isnan()).sum()
    rank = torch.arange(1, p.numel() + 1, device=p.device)
    rates = (ordered * tests / rank).nan_to_num(math.inf).flip(0).cummin(0).values.flip(0)
    q = torch.empty_like(ordered).scatter_(0, order, rates.clamp(max=1))
    return q.view_as(p).masked_fill(p.isnan(), math.nan)
