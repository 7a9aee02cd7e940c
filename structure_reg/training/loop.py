"""The loop: batches, schedules, and the best step by validation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg._checks import no_tqdm
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.structure import StructureLoss
from structure_reg.training.fusemix import fusemix
from structure_reg.training.learning_rate import find_learning_rate, optimizer_of
from structure_reg.training.noise import noisy
from structure_reg.training.objective import Objective, Unpaired
from structure_reg.training.schedules import cosine_decay, linear_warmup

if TYPE_CHECKING:
    from structure_reg.training.aligner import Aligner

VALIDATIONS = 25  # in a training
PREPARED_ROWS = 8192  # at the most: 256 MB of neighbourhoods a side and level


class Batch(NamedTuple):
    x: Tensor
    y: Tensor
    ids: Tensor | None
    frozen: tuple[FrozenStructure, FrozenStructure] | None
    unpaired: Unpaired | None


class Pairs(NamedTuple):
    """What there is to train on."""

    x: Tensor
    y: Tensor
    ids: Tensor | None
    unpaired: Unpaired | None


def batches(
    pairs: Pairs, o: Aligner, objective: Objective, generator: torch.Generator
) -> Iterator[Batch]:
    """Batches without end: all rows, or shuffled ones without the last that is not full."""
    x, y, ids = pairs.x, pairs.y, pairs.ids
    n, batch_size = len(x), o.batch_size
    noise = noise_of(o)
    deviations = [noise * z.std(0) for z in (x, y)]
    # On the device: a batch of noise is as large as the batch.
    of_noise = torch.Generator(x.device).manual_seed(o.seed)
    frozen = None
    if n <= batch_size and o.fusemix is None and noise == 0 and pairs.unpaired is None:
        frozen = prepared(objective, x, y)
    while True:
        order = torch.randperm(n, generator=generator).to(x.device)
        for start in range(0, max(n - batch_size, 0) + 1, batch_size):
            if n <= batch_size:
                a, b, of_batch = x, y, ids
            else:
                rows = order[start : start + batch_size]
                a, b, of_batch = x[rows], y[rows], None if ids is None else ids[rows]
            if o.fusemix is not None:
                a, b = fusemix(a, b, o.fusemix, generator)
            if noise > 0:
                a, b = (noisy(z, d, of_noise) for z, d in zip((a, b), deviations, strict=True))
            yield Batch(a, b, of_batch, frozen, drawn(pairs.unpaired, batch_size, generator))


def noise_of(o: Aligner) -> float:
    """That of the options, or 1 beside STRUCTURE."""
    if o.noise is not None:
        return o.noise
    return 1.0 if o.structure_weight > 0 else 0.0


def prepared(
    objective: Objective, x: Tensor, y: Tensor
) -> tuple[FrozenStructure, FrozenStructure] | None:
    """Neighbourhoods of rows that come back at every step, where the term can take them."""
    if objective.structures is None or len(x) > PREPARED_ROWS:
        return None
    P = []
    for z, g, term in zip((x, y), objective.references, objective.structures, strict=True):
        if not isinstance(term, StructureLoss) or term.group is not None:
            return None
        P.append(
            FrozenStructure(
                g(z), temperature=term.temperature, levels=term.levels, centering=term.centering
            )
        )
    return P[0], P[1]


def drawn(
    unpaired: Unpaired | None, batch_size: int, generator: torch.Generator
) -> Unpaired | None:
    if unpaired is None:
        return None
    x, y = (
        rows[torch.randperm(len(rows), generator=generator)[:batch_size].to(rows.device)]
        for rows in unpaired
    )
    return x, y


def train(
    objective: Objective,
    pairs: Pairs,
    o: Aligner,
    validate: Callable[[float], float] | None,
) -> dict[str, list[float]]:
    """Train in place; with validation, end at the step that it found best.

    `validate` takes the weight of STRUCTURE at the step, and returns what should be high.
    """
    generator = torch.Generator().manual_seed(o.seed)
    schedule = o.lr_schedule or cosine_decay
    steps = o.epochs * max(1, len(pairs.x) // o.batch_size)
    every = max(1, steps // VALIDATIONS)
    stream = batches(pairs, o, objective, generator)
    lr = o.lr
    if isinstance(lr, str):
        lr = find_learning_rate(objective, stream, o.structure_weight, o.weight_decay)
    optimizer = optimizer_of(objective, lr, o.weight_decay)
    watch = Watch(objective, o.patience)
    history: dict[str, list[Tensor | float]] = {name: [] for name in NAMES}
    objective.train()
    for step in shown(range(steps + 1), o.progress):
        done = step / steps
        weight = o.structure_weight * linear_warmup(done, o.warmup)
        if validate is not None and (step % every == 0 or step == steps):
            objective.eval()
            stop = watch.sees(step, done, validate(weight))
            objective.train()
            if stop:
                break
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(done)
        batch = next(stream)
        scale = objective.log_scale.detach().exp()
        terms = objective(batch.x, batch.y, batch.ids, weight, batch.frozen, batch.unpaired)
        optimizer.zero_grad()
        terms.total.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()
        for name, value in zip(
            NAMES,
            (terms.contrastive, terms.structure, scale, weight),
            strict=True,
        ):
            # Read once at the end: a GPU would wait at every step.
            history[name].append(value.detach().clone() if isinstance(value, Tensor) else value)
    watch.restore()
    objective.eval()
    found = {name: torch.as_tensor(values).tolist() for name, values in history.items()}
    return found | {"validation_step": watch.steps, "validation": watch.scores}


def shown(steps: range, progress: bool) -> Iterable[int]:
    """The steps, with a bar on stderr if asked."""
    if not progress:
        return steps
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        raise no_tqdm("Aligner") from None
    bar: Iterable[int] = tqdm(steps, desc="training heads", unit="step", mininterval=1)
    return bar


NAMES = ("contrastive", "structure", "logit_scale", "weight")


class Watch:
    """The best step so far, and whether it is long enough ago."""

    def __init__(self, objective: Objective, patience: float) -> None:
        self.objective, self.patience = objective, patience
        self.steps: list[float] = []
        self.scores: list[float] = []
        self.best, self.best_done = -math.inf, 0.0
        self.state: dict[str, Tensor] | None = None

    def sees(self, step: int, done: float, score: float) -> bool:
        """Note the score; whether to stop."""
        self.steps.append(step)
        self.scores.append(score)
        if score > self.best:
            self.best, self.best_done = score, done
            self.state = copy.deepcopy(self.objective.state_dict())
        return done - self.best_done > self.patience

    def restore(self) -> None:
        if self.state is not None:
            self.objective.load_state_dict(self.state)
