"""From what a fit is given to both fitted sides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from structure_reg._progress import Progress
from structure_reg.layers.report import LayerSelection
from structure_reg.training._checks import (
    check_callback,
    check_device_name,
    check_layer_choice,
)
from structure_reg.training.callback import Callback, on_first
from structure_reg.training.choice import choose_layers
from structure_reg.training.copies import ids_of_copies
from structure_reg.training.data import Sides, with_others
from structure_reg.training.fitting import LAYERS, fitted_heads, planned_steps
from structure_reg.training.given import Given, of_all_processes
from structure_reg.training.inputs import as_ids
from structure_reg.training.loop import Training
from structure_reg.training.options import StartOptions, TrainingOptions, checked_options
from structure_reg.training.pairs import pairs_at_once, scaled_pairs
from structure_reg.training.side import FIT
from structure_reg.training.together import is_first, of_first, together, weights_of_first


class Aligned(NamedTuple):
    """What a fit leaves behind."""

    sides: Sides
    n_pairs: int
    selection: LayerSelection | None
    trained: Training


def aligned(
    given: Given, options: Mapping[str, Any], group: Any, callback: Callback | None
) -> Aligned:
    """Select the layers, scale the pairs, and fit the heads, in step with a group."""
    start, training = together(lambda: checked(options, callback), group)
    if start.closed_form:
        given = given._replace(validation=None, unpaired=None)
    x, y, ids, validation, unpaired = of_all_processes(given, options, group)
    device = options["device"]
    plan = planned_steps(options["layers"], start, training)
    show = training.progress and is_first(group)
    with together(lambda: Progress("Aligner", plan, show=show), group) as progress:
        progress.stage(LAYERS)
        choice = choose_layers(options["layers"], x, y, ids, device, average=start.averages_blends)
        layers, selection, members = of_first(choice, group)
        at_once = pairs_at_once(start, training)
        sides, pairs = scaled_pairs(x, y, layers, start.standardise, device, at_once)
        numbers = as_ids(FIT, ids, pairs.x)
        pairs = pairs._replace(
            ids=ids_of_copies(pairs.x, pairs.y) if numbers is None else numbers, members=members
        )
        pairs, others = with_others(pairs, sides, unpaired, validation, training.monitor)
        tell = on_first(callback, group)
        heads, trained = fitted_heads(pairs, others, start, training, progress, group, tell)
    for side, head in zip(sides, heads, strict=True):
        side.head = head
        weights_of_first(side.eval(), group)
    return Aligned(sides, len(pairs.x), selection, trained)


def checked(options: Mapping[str, Any], callback: Any) -> tuple[StartOptions, TrainingOptions]:
    check_callback(callback)
    check_layer_choice(options["layers"])
    check_device_name(options["device"])
    return checked_options(options)
