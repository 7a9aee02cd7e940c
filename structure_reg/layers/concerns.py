"""What to think of before believing a choice of layers, in words."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg.layers.report import LayerSelection
from structure_reg.layers.significance import ALPHA

# Shares of the rows from which ties and copies are worth a word.
TIED = 0.05
COPIED = 0.02
# Share of the half-samples that a pair should win to be called the best.
STABLE = 0.5


def concerns(selection: LayerSelection, tied: Tensor | None, x: Tensor, y: Tensor) -> Iterator[str]:
    undefined = int(selection.scores.isnan().sum())
    if undefined:
        yield (
            f"{undefined} of {selection.scores.numel()} pairs have no score: "
            "a layer is constant or holds a NaN"
        )
    if 1 / (selection.permutations + 1) > ALPHA:
        yield f"{selection.permutations} permutations cannot show p <= {ALPHA:g}; use 200"
    elif selection.p_value > ALPHA:
        yield f"the best pair is no better than chance (p = {selection.p_value:.3f})"
    yield from gain_concerns(selection)
    yield from neighbour_concerns(selection, tied, x, y)


def gain_concerns(selection: LayerSelection) -> Iterator[str]:
    """Compare the gain over the last pair with twice its standard error."""
    if selection.stability < STABLE:
        yield (
            f"several pairs are about as good: this one wins {selection.stability:.0%} "
            "of the half-samples"
        )
    if selection.gain == 0:
        return
    if not selection.held_out_gain > 2 * selection.gain_error:
        yield (
            f"gain within noise: {selection.held_out_gain:.3f} on held-out halves, "
            f"standard error {selection.gain_error:.3f}; the last pair is as good"
        )


def neighbour_concerns(
    selection: LayerSelection, tied: Tensor | None, x: Tensor, y: Tensor
) -> Iterator[str]:
    """Say where neighbourhoods are too large for the samples, or arbitrary."""
    k, n = selection.k, selection.samples
    if k is not None and tied is not None:
        if k == n - 1:
            yield f"k = {k} takes all other rows: every score is 1; use more samples or a smaller k"
        elif 4 * k > n:
            yield f"too few samples for k: {k} neighbours of {n} rows are no neighbourhood"
        names = selection.x_names + selection.y_names
        worst, at = max(zip(tied.tolist(), names, strict=True))
        if worst > TIED:
            many = int((tied > TIED).sum())
            yield (
                f"ties: the neighbours of up to {worst:.0%} of the rows ({at}) are arbitrary; "
                f"above {TIED:.0%} in {many} of {len(names)} layers"
            )
    for side, last in (("x", x), ("y", y)):
        share = copies(last)
        if share > COPIED:
            yield f"duplicates: {share:.0%} of the rows of {side} repeat another; keep one of each"


def copies(x: Tensor) -> float:
    """Share of the rows that are equal to an earlier one."""
    return 1 - len(torch.unique(x, dim=0)) / len(x)
