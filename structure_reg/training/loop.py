"""The loop: schedules, steps, and the best of them by validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg._progress import Progress
from structure_reg.training.augmentation import Augmentation
from structure_reg.training.batches import Batch, Pairs, batches
from structure_reg.training.callback import Callback
from structure_reg.training.learning_rate import find_learning_rate, optimizer_of
from structure_reg.training.objective import Objective
from structure_reg.training.options import TrainingOptions
from structure_reg.training.schedules import linear_warmup
from structure_reg.training.sharing import backward
from structure_reg.training.steps import step_count
from structure_reg.training.validation import Validate, Watch

TRAINING = "training heads"
VALIDATIONS = 25  # in a training
TRANSPORTED = 1024  # unpaired rows of each side in a step; time grows with their square
PREPARED_ROWS = 8192  # at most: 256 MB of neighbourhoods for each side and level


class Training(NamedTuple):
    """What a training was like."""

    history: dict[str, list[float]]
    stopped: str | None  # when, or why early; None for closed forms


def train(
    objective: Objective,
    pairs: Pairs,
    o: TrainingOptions,
    validate: Validate | None,
    progress: Progress,
    group: Any = None,
    callback: Callback | None = None,
) -> Training:
    """Train in place; with validation, end with the weights of the best step."""
    steps = step_count(len(pairs.x), o.epochs, o.batch_size, o.max_steps)
    stopped = f"after {steps} steps"
    if steps == 0:
        return Training({}, stopped)
    progress.stage(TRAINING, steps)
    every = max(1, steps // VALIDATIONS)
    stream = training_batches(objective, pairs, o)
    lr = o.lr
    if isinstance(lr, str):
        lr = find_learning_rate(objective, stream, o.weight_decay, group)
    optimizer = optimizer_of(objective, lr, o.weight_decay)
    watch = Watch(objective, validate, o.patience, callback)
    history = History()
    objective.train()
    for step in range(steps + 1):
        done = step / steps
        share = linear_warmup(done, o.warmup)
        if (step % every == 0 or step == steps) and watch.stops(step, done, share):
            stopped = f"no better validation since step {watch.best_step}"
            break
        if step == steps:
            break
        for parameters in optimizer.param_groups:
            parameters["lr"] = lr * o.lr_schedule(done)
        scale = objective.scale().detach()
        optimizer.zero_grad()
        terms = backward(objective, next(stream), share, group)
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        objective.follow()
        history.add(
            contrastive=terms.contrastive,
            structure=terms.structure,
            transport=terms.transport,
            logit_scale=scale,
            weight=objective.weight * share,
        )
        if callback is not None:
            callback(step, history.last())
        progress.step()
    watch.restore_best()
    objective.eval()
    lists = history.lists() | {"validation_step": watch.steps, "validation": watch.scores}
    return Training(lists, stopped)


def training_batches(objective: Objective, pairs: Pairs, o: TrainingOptions) -> Iterator[Batch]:
    """Augmented batches; rows that every step sees alike have their neighbourhoods prepared."""
    x, y = pairs.x, pairs.y
    generator = torch.Generator().manual_seed(o.seed)
    deviations = noise_deviations(pairs, o.noise) if o.noise > 0 else None
    noise_generator = torch.Generator(x.device).manual_seed(o.seed)
    augmentation = Augmentation(o.fusemix, deviations, generator, noise_generator)
    frozen = None
    every_step_alike = len(x) <= o.batch_size and augmentation.is_identity
    if every_step_alike and pairs.unpaired is None and len(x) <= PREPARED_ROWS:
        frozen = objective.prepared(x[:], y[:])
    most = o.batch_size if objective.transport is None else min(o.batch_size, TRANSPORTED)
    return batches(pairs, o.batch_size, augmentation, frozen, generator, most)


def noise_deviations(pairs: Pairs, noise: float) -> tuple[Tensor, Tensor]:
    """Standard deviations of the noise of each column."""
    m = pairs.moments
    if m is None:
        return noise * pairs.x[:].std(0), noise * pairs.y[:].std(0)
    sigma_x, sigma_y = (
        (M.diagonal() / (m.n - 1)).sqrt().to(pairs.x.device, torch.float32)
        for M in (m.M_xx, m.M_yy)
    )
    return noise * sigma_x, noise * sigma_y


class History:
    """Values of every step, read once at the end: a GPU would wait at every step."""

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor | float]] = {}

    def add(self, **values: Tensor | float) -> None:
        for name, value in values.items():
            kept = value.detach().clone() if isinstance(value, Tensor) else value
            self.values.setdefault(name, []).append(kept)

    def last(self) -> dict[str, float]:
        return {name: torch.as_tensor(values[-1]).item() for name, values in self.values.items()}

    def lists(self) -> dict[str, list[float]]:
        return {name: torch.as_tensor(values).tolist() for name, values in self.values.items()}
