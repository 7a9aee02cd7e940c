"""From scaled pairs to fitted heads, in closed form or by training."""

from __future__ import annotations

from typing import Any

import torch

from structure_reg._progress import Progress
from structure_reg.training._checks import no_finite_heads
from structure_reg.training.batches import Pairs
from structure_reg.training.callback import Callback
from structure_reg.training.closed_form import Heads, closed_form_heads
from structure_reg.training.data import HeldOut
from structure_reg.training.loop import Training, train
from structure_reg.training.options import StartOptions, TrainingOptions
from structure_reg.training.start import starting_objective
from structure_reg.training.together import of_first, weights_of_first
from structure_reg.training.validation import validator


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
    progress.stage("fitting heads")
    heads = closed_form_heads(pairs, start.head, start.dim)
    progress.step()
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
    device = pairs.x.device
    # The global generator initialises the weights of modules; afterwards it is put back.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        progress.stage("choosing shrinkage")
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
