"""How good a step of training is, on pairs that are not trained on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structure_reg.evaluation.retrieval import retrieval
from structure_reg.training.objective import Objective


def validator(
    objective: Objective, x: Tensor, y: Tensor, ids: Tensor | None, monitor: str
) -> Callable[[float], float]:
    """Mean recall, or the objective's negative at the weight that STRUCTURE has at the step."""

    @torch.no_grad()
    def validate(weight: float) -> float:
        if monitor == "objective":
            return -float(objective(x, y, ids, weight).total)
        return float(retrieval(objective.head_x(x), objective.head_y(y), ids=ids).mean_recall)

    return validate
