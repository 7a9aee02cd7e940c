"""The scaled pairs of a fit: in memory where both sides fit the budget, streamed otherwise."""

from __future__ import annotations

import math
from typing import Any

from structure_reg.training._checks import check_pairs
from structure_reg.training.batches import Pairs
from structure_reg.training.inputs import Features
from structure_reg.training.options import StartOptions, TrainingOptions
from structure_reg.training.rows import rows_of
from structure_reg.training.side import FIT, Side, fitted_side
from structure_reg.training.streaming import streamed_pairs

FEWEST = 8  # pairs, as select_layers and select_cca need them


def scaled_pairs(
    x: Features,
    y: Features,
    layers: tuple[Any, Any],
    standardise: bool,
    device: Any,
    at_once: float,
) -> tuple[tuple[Side, Side], Pairs]:
    """Both sides without heads as yet, and the pairs; no more than `at_once` are held anyway."""
    rows_x = rows_of(FIT, "x", x, layers[0], device)
    rows_y = rows_of(FIT, "y", y, layers[1], device)
    held = len(rows_x) <= at_once or (rows_x.fit_in_memory() and rows_y.fit_in_memory())
    if not held and len(rows_x) == len(rows_y):
        return streamed_pairs(rows_x, rows_y, layers, standardise)
    side_x, X = fitted_side("x", rows_x, layers[0], standardise)
    X = side_x.scaled(X)  # one side after the other: the rows as they were are let go
    side_y, Y = fitted_side("y", rows_y, layers[1], standardise)
    Y = side_y.scaled(Y)
    check_pairs(FIT, X, Y, FEWEST)
    return (side_x, side_y), Pairs(X, Y, None)


def pairs_at_once(start: StartOptions, training: TrainingOptions) -> float:
    """Number of pairs that a fit holds in memory anyway: a batch, or the anchors of ASIF."""
    if start.closed_form:
        return math.inf if start.head == "asif" else 0
    return training.batch_size
