"""How many layers of each side to blend, by the held-out loss of a CCA."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from torch import Tensor

from structure_reg.layers.report import LayerSelection
from structure_reg.training.closed_form import held_out_cca
from structure_reg.training.inputs import joined
from structure_reg.training.side import scaling_of

SIZES = (2, 3, 5)  # layers a side
CANDIDATES = 9  # about as many blends as are compared, for a progress bar
SAMPLE = 1000  # pairs that are enough to compare blends


class Blend(NamedTuple):
    """Positions of the layers of each side, from first to last."""

    x: tuple[int, ...]
    y: tuple[int, ...]


def choose_blend(
    selection: LayerSelection, xs: list[Tensor], ys: list[Tensor], ids: Tensor | None
) -> Blend:
    """Return the blend that predicts held-out pairs best, of one layer a side or of several.

    First both sides get as many layers; then each side is varied for itself. The last pair competes
    too. `xs` and `ys` are all layers of at most `SAMPLE` pairs.
    """
    pair = Blend((selection.x_layer,), (selection.y_layer,))
    last = Blend((len(xs) - 1,), (len(ys) - 1,))
    blends = [Blend(*selection.blend(size)) for size in SIZES]

    @cache
    def loss(blend: Blend) -> float:
        sides = blended([xs[i] for i in blend.x]), blended([ys[j] for j in blend.y])
        return held_out_cca(*sides, ids).loss

    best = min([pair, *blends, last], key=loss)
    best = min([best, *(Blend(other.x, best.y) for other in (pair, *blends[1:]))], key=loss)
    return min([best, *(Blend(best.x, other.y) for other in (pair, *blends[1:]))], key=loss)


def blended(layers: list[Tensor]) -> Tensor:
    """Scaled layers side by side, (n, Σ d)."""
    mean, factor = scaling_of(layers, standardise=True)
    return (joined(layers) - mean) * factor
