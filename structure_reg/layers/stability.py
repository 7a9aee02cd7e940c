"""Whether the choice of layers repeats on random halves of the samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Random splits of the samples into two halves; each half gives one choice of layers.
HALVINGS = 10


class Stability(NamedTuple):
    """Agreement of disjoint halves with the choice on all samples."""

    share: float  # share of the halves in which the same pair is the best
    x_share: float  # share in which the best pair has the same layer of x
    y_share: float  # and of y
    gain_error: float  # standard error of the gain over the last pair
    held_out_gain: float  # gain of a pair chosen on one half and scored on the other


def stability(halves: Tensor, chance: Tensor, best: int) -> Stability:
    """Evaluate the scores of both halves of every split, (H, 2, LA, LB).

    Halves are drawn without replacement. In a bootstrap sample, copies of a row would be each
    other's neighbours in every layer, which would look like agreement.
    """
    LB = halves.shape[-1]
    scores = halves.flatten(2)  # (H, 2, LA * LB)
    winners = (halves - chance).flatten(2).nan_to_num(-torch.inf).argmax(-1)  # (H, 2)
    gains = scores - scores[..., -1:]
    # The halves are independent and the whole is about their mean: var(whole) = var(a - b) / 4.
    a, b = gains[..., best].unbind(1)
    held_out = gains.flip(1).gather(2, winners[..., None])
    return Stability(
        true_share(winners == best),
        true_share(winners // LB == best // LB),
        true_share(winners % LB == best % LB),
        float((a - b).square().nanmean().sqrt() / 2),
        float(held_out.nanmean()),
    )


def true_share(condition: Tensor) -> float:
    return float(condition.double().mean())
