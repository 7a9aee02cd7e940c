"""Which layers of each side to blend, by the held-out loss of a CCA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.heads.cca_selection import CcaSelection
from structure_reg.layers.report import BLEND, LayerSelection
from structure_reg.training.closed_form import held_out_cca
from structure_reg.training.inputs import joined
from structure_reg.training.side import scaling_of

CANDIDATES = 3  # as many blends as are compared at most, for a progress bar
SAMPLE = 1000  # pairs that are enough to compare blends
WORSE = 0.04  # a blend whose held-out loss is larger by this share has 1 / e of the weight
RELEVANT = 0.1  # smaller weights count as none, so that no layer is asked for in vain


class Blend(NamedTuple):
    """Positions of the layers of each side, from first to last."""

    x: tuple[int, ...]
    y: tuple[int, ...]


class WeighedBlend(NamedTuple):
    """A blend, the CCA that held-out pairs chose for it, and its share in an average of blends."""

    blend: Blend
    cca: CcaSelection  # ridges for the pairs that are fitted to
    weight: float


def weighed_blends(
    selection: LayerSelection, xs: list[Tensor], ys: list[Tensor], ids: Tensor | None, n: int
) -> list[WeighedBlend]:
    """The best pair, five layers a side, and the last pair, weighed by their held-out loss.

    `xs` and `ys` are all layers of at most `SAMPLE` of the n pairs.
    """
    blends = candidates(selection)
    chosen = []
    for blend in blends:
        sides = blended([xs[i] for i in blend.x]), blended([ys[j] for j in blend.y])
        chosen.append(held_out_cca(*sides, ids))
    weights = shares([cca.loss for cca in chosen])
    share = len(xs[0]) / n  # the penalty on the sum over the pairs carries over
    ccas = [cca._replace(ridge=(share * cca.ridge[0], share * cca.ridge[1])) for cca in chosen]
    weighed = zip(blends, ccas, weights, strict=True)
    return [WeighedBlend(*parts) for parts in weighed if parts[-1] > 0]


def shares(losses: list[float]) -> list[float]:
    """Weights of sum 1 that fall with the loss, relative to the smallest; small ones are 0."""
    loss = torch.tensor(losses, dtype=torch.float64)
    least = loss.min().clamp(min=torch.finfo(loss.dtype).tiny)
    weights = torch.softmax((1 - loss / least) / WORSE, 0)
    weights = torch.where(weights < RELEVANT, 0, weights)
    return (weights / weights.sum()).tolist()


def candidates(selection: LayerSelection) -> list[Blend]:
    """Different blends: one layer is most robust on few pairs, several see more on many."""
    pair = Blend((selection.x_layer,), (selection.y_layer,))
    blends = [pair, Blend(*selection.blend(BLEND))]
    if selection.scores[-1, -1].isfinite():  # otherwise a last layer is constant
        blends.append(Blend((len(selection.x_names) - 1,), (len(selection.y_names) - 1,)))
    return list(dict.fromkeys(blends))


def union(blends: list[Blend]) -> Blend:
    """All layers that are in one of the blends."""
    x, y = ({i for blend in blends for i in blend[side]} for side in range(2))
    return Blend(tuple(sorted(x)), tuple(sorted(y)))


def blended(layers: list[Tensor]) -> Tensor:
    """Scaled layers side by side, (n, Σ d)."""
    mean, factor = scaling_of(layers, standardise=True)
    return (joined(layers) - mean) * factor
