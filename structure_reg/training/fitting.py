"""From scaled pairs to heads by training."""

from __future__ import annotations

import torch

from structure_reg.training._checks import no_finite_heads
from structure_reg.training.batches import Pairs
from structure_reg.training.closed_form import Heads
from structure_reg.training.data import HeldOut
from structure_reg.training.loop import train
from structure_reg.training.options import StartOptions, TrainingOptions
from structure_reg.training.start import starting_objective
from structure_reg.training.validation import validator


def trained_heads(
    pairs: Pairs, validation: HeldOut | None, start: StartOptions, training: TrainingOptions
) -> tuple[Heads, dict[str, list[float]]]:
    """The heads, and the history of their training."""
    device = pairs.x.device
    # The global generator initialises the weights of modules; afterwards it is put back.
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(training.seed)
        objective = starting_objective(pairs, start, training.batch_size)
        validate = None
        if validation is not None:
            validate = validator(objective, validation, training.monitor)
        history = train(objective, pairs, training, validate)
    if not all(weight.isfinite().all() for weight in objective.parameters()):
        raise no_finite_heads()
    return (objective.head_x, objective.head_y), history
