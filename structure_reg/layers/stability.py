"""Whether the choice of layers repeats: the grid on random halves of the samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Halvings of the samples. Each gives two halves, and each half a choice of layers.
HALVINGS = 10


class Stability(NamedTuple):
    """What disjoint halves say of a choice made on all samples."""

    share: float  # of the halves in which the same pair is the best
    x_share: float  # in which the best pair has the same layer of x
    y_share: float
    gain_error: float  # standard error of the gain over the last pair
    held_out_gain: float  # of a pair chosen on one half and scored on the other


def stability(halves: Tensor, centre: Tensor, best: int) -> Stability:
    """Read the scores of both halves of every split, (H, 2, LA, LB).

    Halves are drawn without replacement: a bootstrap's copies of a row are neighbours of each other
    in every layer, which passes for agreement.
    """
    LB = halves.shape[-1]
    scores = halves.flatten(2)  # (H, 2, LA * LB)
    winners = (halves - centre).flatten(2).nan_to_num(-torch.inf).argmax(-1)  # (H, 2)
    gains = scores - scores[..., -1:]
    # Two halves are independent, and the whole is their mean: var(whole) = var(a - b) / 4.
    a, b = gains[..., best].unbind(1)
    elsewhere = gains.flip(1).gather(2, winners[..., None])
    return Stability(
        share(winners == best),
        share(winners // LB == best // LB),
        share(winners % LB == best % LB),
        float((a - b).square().mean().sqrt() / 2),
        float(elsewhere.nanmean()),
    )


def share(of: Tensor) -> float:
    return float(of.double().mean())
