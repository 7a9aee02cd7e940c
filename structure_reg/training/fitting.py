"""From scaled pairs to fitted heads, in closed form or by training."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import torch

from structure_reg._progress import Progress
from structure_reg.heads.cca_selection import STEPS
from structure_reg.training._checks import no_finite_heads
from structure_reg.training.batches import Pairs
from structure_reg.training.blending import CANDIDATES
from structure_reg.training.callback import Callback
from structure_reg.training.closed_form import Heads, closed_form_heads
from structure_reg.training.data import HeldOut
from structure_reg.training.loop import TRAINING, Training, train
from structure_reg.training.options import StartOptions, TrainingOptions
from structure_reg.training.start import starting_objective
from structure_reg.training.steps import step_count
from structure_reg.training.together import of_first, weights_of_first
from structure_reg.training.validation import validator

LAYERS, SHRINKAGE, FITTING = "choosing layers", "choosing shrinkage", "fitting heads"
WITH_SHRINKAGE = ("cca", "csa")  # closed forms


def planned_steps(layers: Any, start: StartOptions, training: TrainingOptions) -> dict[str, int]:
    """About how many steps each stage of a fit has, before anything is known of the pairs."""
    plan = {LAYERS: 1 + (CANDIDATES * STEPS if layers == "blend" else 0)}
    if start.closed_form:
        return plan | {FITTING: STEPS if start.head in WITH_SHRINKAGE else 1}
    o = training
    return plan | {
        SHRINKAGE: STEPS,
        TRAINING: step_count(sys.maxsize, o.epochs, o.batch_size, o.max_steps),
    }


def fitted_heads(
    pairs: Pairs,
    validation: HeldOut | None,
    start: StartOptions,
    training: TrainingOptions,
    progress: Progress,
    group: Any = None,
    callback: Callback | None = None,
) -> tuple[Heads, Training]:
    """The heads, and what their training was like."""
    if not start.closed_form:
        return trained_heads(pairs, validation, start, training, progress, group, callback)
    progress.stage(FITTING)
    heads = closed_form_heads(pairs, start.head, start.dim)
    return heads, Training({}, None)


def trained_heads(
    pairs: Pairs,
    validation: HeldOut | None,
    start: StartOptions,
    training: TrainingOptions,
    progress: Progress,
    group: Any = None,
    callback: Callback | None = None,
) -> tuple[Heads, Training]:
    if training.epochs == 0:
        start = replace(start, structure_weight=0.0)  # no term is needed
    device = pairs.x.device
    # The global generator initialises the weights of modules; afterwards it is put back.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        progress.stage(SHRINKAGE)
        objective = starting_objective(pairs, start, training.batch_size)
        weights_of_first(objective, group)
        validate = None
        if validation is not None:
            validate = validator(objective, validation, training.monitor, group)
        trained = train(objective, pairs, training, validate, progress, group, callback)
    finite = all(bool(weight.isfinite().all()) for weight in objective.parameters())
    if not of_first(finite, group):
        raise no_finite_heads()
    return (objective.head_x, objective.head_y), trained
