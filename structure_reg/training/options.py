"""The options of :class:`Aligner` as its helpers receive them: two records, checked when made.

The fields have the names of the constructor's parameters, where they are documented.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from torch import nn

from structure_reg._checks import check_choice, check_count, check_flag, check_number
from structure_reg.training._checks import (
    check_count_or_none,
    check_head,
    check_lr,
    check_module,
    check_number_or_none,
    check_seed,
)
from structure_reg.training.closed_form import CLOSED_FORMS
from structure_reg.training.schedules import cosine_decay
from structure_reg.training.trained_heads import TRAINED, WITH_LINEAR_START

FUNCTION = "Aligner"
NOISE = 1.0  # standard deviations of a column, when training with STRUCTURE
EPOCHS = 200
EPOCHS_UNPAIRED = 50  # on folds, more made matches of unpaired rows firm that were wrong
# Options that change what is aligned, or where; all others ask for training.
WITHOUT_TRAINING = {
    "layers",
    "dim",
    "unpaired_weight",
    "standardise",
    "seed",
    "device",
    "progress",
}


@dataclass(frozen=True)
class StartOptions:
    """What decides which heads training starts from, and what it minimises."""

    head: Any
    dim: int
    start: str
    keep: str
    structure: nn.Module | None
    contrastive: nn.Module | None
    structure_weight: float
    unpaired_weight: float
    logit_scale: float | None
    standardise: bool

    @property
    def closed_form(self) -> bool:
        return isinstance(self.head, str) and self.head in CLOSED_FORMS

    @property
    def averages_blends(self) -> bool:
        """Whether the heads are, or start from, a CCA; only its maps can be averaged."""
        kind = self.head if isinstance(self.head, str) else None
        return kind == "cca" or (self.start == "cca" and kind in WITH_LINEAR_START)

    def __post_init__(self) -> None:
        """Refuse values of the wrong kind or out of range."""
        check_head(self.head, (*TRAINED, *CLOSED_FORMS))
        check_count(FUNCTION, "dim", self.dim)
        check_choice(FUNCTION, "start", self.start, ("cca", "random"))
        check_choice(FUNCTION, "keep", self.keep, ("shared", "frozen"))
        check_module("structure", self.structure)
        check_module("contrastive", self.contrastive)
        check_number(FUNCTION, "structure_weight", self.structure_weight, least=0.0)
        check_number(FUNCTION, "unpaired_weight", self.unpaired_weight, least=0.0)
        check_number_or_none("logit_scale", self.logit_scale, above=0.0)
        check_flag(FUNCTION, "standardise", self.standardise)


@dataclass(frozen=True)
class TrainingOptions:
    """What decides how the objective is minimised."""

    epochs: int
    max_steps: int | None
    batch_size: int
    lr: float | str
    lr_schedule: Callable[[float], float]
    weight_decay: float
    warmup: float
    noise: float
    fusemix: float | None
    monitor: str
    patience: float
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        """Refuse values of the wrong kind or out of range."""
        check_count(FUNCTION, "epochs", self.epochs, least=0)
        check_count_or_none("max_steps", self.max_steps)
        check_count(FUNCTION, "batch_size", self.batch_size, least=2)
        check_lr(self.lr)
        check_number(FUNCTION, "weight_decay", self.weight_decay, least=0.0)
        check_number(FUNCTION, "warmup", self.warmup, least=0.0)
        check_number(FUNCTION, "noise", self.noise, least=0.0)
        check_number_or_none("fusemix", self.fusemix, above=0.0)
        check_choice(FUNCTION, "monitor", self.monitor, ("recall", "objective"))
        check_number(FUNCTION, "patience", self.patience, above=0.0)
        check_seed(FUNCTION, self.seed)
        check_flag(FUNCTION, "progress", self.progress)


def checked_options(options: Mapping[str, Any]) -> tuple[StartOptions, TrainingOptions]:
    """The constructor's options as the parts of a fit receive them, with defaults filled in."""
    start, training = (
        {name: plain(options[name]) for name in field_names(record)}
        for record in (StartOptions, TrainingOptions)
    )
    checked = StartOptions(**start)
    if training["noise"] is None:
        training["noise"] = NOISE if checked.structure_weight > 0 else 0.0
    if training["epochs"] is None:
        training["epochs"] = EPOCHS
    training["lr_schedule"] = training["lr_schedule"] or cosine_decay
    return checked, TrainingOptions(**training)


def default_epochs(changed: Iterable[str], validation: Any, unpaired: Any) -> int:
    """Epochs where none are given: none where training gains nothing over the start."""
    if unpaired is not None:
        return EPOCHS_UNPAIRED
    asked = not WITHOUT_TRAINING.issuperset(changed)
    return EPOCHS if asked or validation is not None else 0


def without_address(text: str) -> str:
    """A repr without the addresses that functions and modules have in the memory of one process."""
    return re.sub(" at 0x[0-9a-fA-F]+", "", text)


def plain(value: Any) -> Any:
    """A NumPy scalar as the Python value that it stands for; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def field_names(record: type) -> list[str]:
    return [field.name for field in fields(record)]
