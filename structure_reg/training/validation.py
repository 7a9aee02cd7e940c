"""How good a step of training is on pairs that are not trained on, and when to stop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg.evaluation.retrieval import retrieval
from structure_reg.training._checks import check_pairs, check_row_ids, check_y_ids
from structure_reg.training.batches import Batch
from structure_reg.training.inputs import as_ids
from structure_reg.training.objective import Objective


class HeldOut(NamedTuple):
    """Rows to validate on. With `y_ids` those of y are no partners of those of x."""

    x: Tensor
    y: Tensor
    ids: Tensor | None
    y_ids: Tensor | None = None


def held_out(function: str, x: Tensor, y: Tensor, ids: Any, y_ids: Any, *, least: int) -> HeldOut:
    """Number the ids of both sides together, or check that the rows are pairs."""
    if y_ids is None:
        check_pairs(function, x, y, least)
        return HeldOut(x, y, as_ids(function, ids, x))
    check_y_ids(function, ids)
    values = [z.tolist() if hasattr(z, "tolist") else list(z) for z in (ids, y_ids)]
    check_row_ids(function, "x", "ids", x, values[0])
    check_row_ids(function, "y", "y_ids", y, values[1])
    number: dict[Any, int] = {}
    of_x, of_y = (
        torch.tensor([number.setdefault(i, len(number)) for i in side], device=x.device)
        for side in values
    )
    return HeldOut(x, y, of_x, of_y)


# From the share of STRUCTURE's weight at a step to a score; higher is better.
Validate = Callable[[float], float]


def validator(objective: Objective, rows: HeldOut, monitor: str) -> Validate:
    """Mean recall of the heads, or the negative objective at the step's share of the weight."""

    @torch.no_grad()
    def validate(share: float) -> float:
        if monitor == "objective":
            return -float(objective(Batch(rows.x, rows.y, rows.ids), share).total)
        z_x, z_y = objective.head_x(rows.x), objective.head_y(rows.y)
        return float(retrieval(z_x, z_y, ids=rows.ids, y_ids=rows.y_ids).mean_recall)

    return validate


class Watch:
    """The best step so far, and whether it was too long ago."""

    def __init__(self, objective: Objective, validate: Validate | None, patience: float) -> None:
        self.objective, self.validate, self.patience = objective, validate, patience
        self.steps: list[float] = []
        self.scores: list[float] = []
        self.best_score, self.best_done = -math.inf, 0.0
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
        if score > self.best_score:
            self.best_score, self.best_done = score, done
            self.best_state = copy.deepcopy(self.objective.state_dict())
        return done - self.best_done > self.patience

    def restore_best(self) -> None:
        if self.best_state is not None:
            self.objective.load_state_dict(self.best_state)
