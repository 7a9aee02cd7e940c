"""Warnings of :func:`select_layers`: reasons to doubt the choice of layers."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg.layers.grid import Measurement
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.significance import ALPHA

# Shares of the rows above which ties and copies are reported.
TIED = 0.05
COPIED = 0.02
# Share of the half-samples that a pair should win to count as the only best pair.
STABLE = 0.5


def concerns(
    selection: LayerSelection, measurement: Measurement, xs: list[Tensor], ys: list[Tensor]
) -> Iterator[str]:
    """All warnings about a selection from these layers."""
    of_x, of_y = measurement.constant[: len(xs)], measurement.constant[len(xs) :]
    equal = "equal" if selection.k is None else "equal up to scale"
    yield from constant_concerns(of_x, selection.x_names, f"x: all rows are {equal}")
    yield from constant_concerns(of_y, selection.y_names, f"y: all rows are {equal}")
    yield from score_concerns(selection)
    yield from gain_concerns(selection)
    yield from neighbour_concerns(selection.k, selection.samples)
    if measurement.tied is not None:
        tied = measurement.tied.masked_fill(measurement.constant, 0)
        yield from tie_concerns(tied, selection.x_names + selection.y_names)
    yield from copy_concerns(x=last_varying(xs, of_x), y=last_varying(ys, of_y))


def last_varying(layers: list[Tensor], constant: Tensor) -> Tensor:
    """The last layer that is not constant, in which copies of a row are copies of a sample."""
    return layers[int((~constant).nonzero().max())]


def constant_concerns(constant: Tensor, names: tuple[str, ...], where: str) -> Iterator[str]:
    """Layers without a score."""
    for is_constant, name in zip(constant.tolist(), names, strict=True):
        if is_constant:
            yield f"{name} is constant in {where}, so it has no score and is never chosen"


def score_concerns(selection: LayerSelection) -> Iterator[str]:
    """Undefined scores, and scores no better than chance."""
    undefined = int(selection.scores.isnan().sum())
    if undefined:
        yield (
            f"{undefined} of {selection.scores.numel()} pairs have no score, "
            "because a layer is constant or contains NaN"
        )
    if 1 / (selection.permutations + 1) > ALPHA:
        yield f"{selection.permutations} permutations cannot show p <= {ALPHA:g}; use 200"
    elif selection.p_value > ALPHA:
        yield f"the best pair is no better than chance (p = {selection.p_value:.3f})"


def gain_concerns(selection: LayerSelection) -> Iterator[str]:
    """Other pairs that win half-samples, and a gain below twice its standard error."""
    if selection.stability < STABLE:
        yield (
            "several pairs are about equally good: this one wins only "
            f"{selection.stability:.0%} of the half-samples"
        )
    scored = abs(selection.gain) > 0  # not NaN, which it is for a last pair without a score
    if scored and not selection.held_out_gain > 2 * selection.gain_error:
        yield (
            f"the gain is within noise: {selection.held_out_gain:.3f} on held-out halves, "
            f"with a standard error of {selection.gain_error:.3f}; the last pair is as good"
        )


def neighbour_concerns(k: int | None, n: int) -> Iterator[str]:
    """Neighbourhoods that are too large for n rows."""
    if k is None:
        return
    if k == n - 1:
        yield (
            f"k = {k} takes all other rows as neighbours, whatever the features are; "
            "use more samples or a smaller k"
        )
    elif 4 * k > n:
        yield f"too few samples for k = {k}: {k} of {n} rows are not a local neighbourhood"


def tie_concerns(tied: Tensor, names: tuple[str, ...]) -> Iterator[str]:
    """Layers in which the neighbours of many rows are a random choice."""
    worst, name = max(zip(tied.tolist(), names, strict=True))
    if worst > TIED:
        yield (
            f"ties: neighbours are a random choice for up to {worst:.0%} of the rows ({name}), "
            f"and for more than {TIED:.0%} in {int((tied > TIED).sum())} of {len(names)} layers"
        )


def copy_concerns(**sides: Tensor) -> Iterator[str]:
    """Rows that occur more than once."""
    for name, layer in sides.items():
        copies = 1 - len(torch.unique(layer, dim=0)) / len(layer)
        if copies > COPIED:
            yield (
                f"duplicates: {copies:.0%} of the rows of {name} repeat another row; "
                "keep one copy of each"
            )
