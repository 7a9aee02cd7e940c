"""How good a step of training is on pairs that are not trained on, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg.evaluation.retrieval import retrieval
from structure_reg.training.batches import Batch
from structure_reg.training.callback import Callback
from structure_reg.training.data import HeldOut
from structure_reg.training.objective import Objective
from structure_reg.training.rows import Rows
from structure_reg.training.together import of_first

# From the share of STRUCTURE's weight at a step to a score; higher is better.
Validate = Callable[[float], float]


def validator(objective: Objective, rows: HeldOut, monitor: str, group: Any = None) -> Validate:
    """Mean recall of the heads, or the negative objective at the step's share of the weight.

    All rows are on every process, and the score is that of the first.
    """

    @torch.no_grad()
    def validate(share: float) -> float:
        if monitor == "objective":
            loss = objective(Batch(rows.x[:], rows.y[:], rows.ids), share).total
            return of_first(-float(loss), group)
        z_x, z_y = mapped(objective.head_x, rows.x), mapped(objective.head_y, rows.y)
        found = retrieval(z_x, z_y, ids=rows.ids, y_ids=rows.y_ids)
        return of_first(float(found.mean_recall), group)

    return validate


def mapped(head: nn.Module, x: Tensor | Rows) -> Tensor:
    """What a head makes of all rows; those that are not held in memory are read in blocks."""
    if isinstance(x, Rows):
        return torch.cat([head(x[block]) for block in x.blocks()])
    z: Tensor = head(x)
    return z


class Watch:
    """The best step so far, and whether it was too long ago."""

    def __init__(
        self,
        objective: Objective,
        validate: Validate | None,
        patience: float,
        callback: Callback | None = None,
    ) -> None:
        self.objective, self.validate, self.patience = objective, validate, patience
        self.callback = callback
        self.steps: list[float] = []
        self.scores: list[float] = []
        self.best_score, self.best_done = -math.inf, 0.0
        self.best_step = 0
        self.best_state: dict[str, Tensor] | None = None

    def stops(self, step: int, done: float, share: float) -> bool:
        """Validate a step, `done` of training in [0, 1]; whether training should stop."""
        if self.validate is None:
            return False
        self.objective.eval()
        score = self.validate(share)
        self.objective.train()
        self.steps.append(step)
        self.scores.append(score)
        if self.callback is not None:
            self.callback(step, {"validation": score})
        if score > self.best_score:
            self.best_score, self.best_done, self.best_step = score, done, step
            self.best_state = copy.deepcopy(self.objective.state_dict())
        return done - self.best_done > self.patience

    def restore_best(self) -> None:
        if self.best_state is not None:
            self.objective.load_state_dict(self.best_state)
