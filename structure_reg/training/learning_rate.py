"""The learning-rate range test."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from structure_reg.training.batches import Batch
from structure_reg.training.objective import Objective
from structure_reg.training.sharing import backward
from structure_reg.training.together import of_first

LEAST, MOST, STEPS, FALLBACK = 1e-7, 10.0, 100, 1e-3


def find_learning_rate(
    objective: Objective, stream: Iterator[Batch], weight_decay: float, group: Any = None
) -> float:
    """Find a fifth of the rate at which the loss falls fastest as the rate grows from 1e-7 to 10.

    Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017. STRUCTURE has its
    full weight. The objective is left as it was. 1e-3 if the loss never falls.
    """
    before = copy.deepcopy(objective.state_dict())
    optimizer = optimizer_of(objective, LEAST, weight_decay)
    rates = [LEAST * math.pow(MOST / LEAST, i / (STEPS - 1)) for i in range(STEPS)]
    losses: list[float] = []
    for rate, batch in zip(rates, itertools.islice(stream, STEPS), strict=True):
        for parameters in optimizer.param_groups:
            parameters["lr"] = rate
        optimizer.zero_grad()
        terms = backward(objective, batch, 1.0, group)
        optimizer.step()
        losses.append(of_first(terms.total.item(), group))
        if not math.isfinite(losses[-1]) or losses[-1] > 4 * min(losses):
            break
    objective.load_state_dict(before)
    slopes = [b - a for a, b in itertools.pairwise(losses)]  # equal steps of log rate
    if not slopes or not min(slopes) < 0:
        return FALLBACK
    return rates[slopes.index(min(slopes))] / 5


def optimizer_of(objective: Objective, lr: float, weight_decay: float) -> torch.optim.AdamW:
    trained = [p for p in objective.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, betas=(0.9, 0.95), weight_decay=weight_decay)
