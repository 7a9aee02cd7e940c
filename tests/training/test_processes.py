"""A fit over processes, each with its own share of the pairs, is the fit of all pairs in one."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from contract import normal
from processes import GROUPS, Processes
from torch import Tensor, nn

import structure_reg as sr
from structure_reg._distributed import gather_uneven_rows
from structure_reg.training import rows
from structure_reg.training.shards import Shard

N = 90
SHARED = normal(N, 5, seed=0)
X = (SHARED @ normal(5, 9, seed=1) + 0.5 * normal(N, 9, seed=2) + 3).float()
Y = (SHARED @ normal(5, 7, seed=3) + 0.5 * normal(N, 7, seed=4) - 5).float()
OTHER = (SHARED @ normal(5, 4, seed=5) + normal(N, 4, seed=6)).float()
NOISE = normal(N, 4, seed=7).float()
SHARES = {1: (0, N), 2: (0, 61, N), 4: (0, 20, 20, 67, N)}  # uneven; one of four is empty
EVERY = pytest.mark.parametrize("ranks", [ranks for ranks in GROUPS if ranks != (1, 3)])
ROUNDING = {"rtol": 0.0, "atol": 2e-5}
TRAINED = {"dim": 4, "epochs": 3, "batch_size": 32, "lr": 1e-2}


class Case(NamedTuple):
    """A fit: how it is called, and how much of it is held in memory."""

    options: dict[str, Any]
    x: Any = X
    y: Any = Y
    ids: Any = None
    validation: Any = None
    unpaired: Any = None
    streamed: bool = False


class Fit(NamedTuple):
    """What a fit ends with."""

    z: tuple[Tensor, Tensor]
    weights: list[Tensor]
    layers: Any
    history: dict[str, list[float]]
    stopped: str | None
    log: int  # lines


def share(of: Any, group: Any) -> Any:
    """This process's rows of an array, or of all arrays in a list, tuple or dict."""
    if isinstance(of, dict):
        return {name: share(part, group) for name, part in of.items()}
    if isinstance(of, tuple) or (isinstance(of, list) and isinstance(of[0], Tensor)):
        return type(of)(share(part, group) for part in of)
    if of is None:
        return None
    bounds = [len(of) * cut // N for cut in SHARES[group.size()]]
    return of[bounds[group.rank()] : bounds[group.rank() + 1]]


def fitted(aligner: sr.Aligner, case: Case, log: int = 0) -> Fit:
    sides = aligner.modules_
    return Fit(
        (torch.as_tensor(aligner.transform_x(case.x)), torch.as_tensor(aligner.transform_y(case.y))),
        [weight for side in sides for weight in side.state_dict().values()],
        aligner.layers_,
        aligner.history_.lists(),
        aligner.stopped_,
        log,
    )


def fit(group: Any, case: Case) -> Fit:
    """Fit to this process's share, or to all rows without a group."""
    lines: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = lines.append  # type: ignore[method-assign]
    logger = logging.getLogger("structure_reg")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    budget, rows.BUDGET = rows.BUDGET, 0 if case.streamed else rows.BUDGET
    try:
        own = Case(*(share(part, group) for part in case[1:6])) if False else None  # noqa: F841
        given = case[1:6] if group is None else [share(part, group) for part in case[1:6]]
        x, y, ids, validation, unpaired = given
        aligner = sr.Aligner(**case.options).fit(
            x, y, ids=ids, validation=validation, unpaired=unpaired, group=group
        )
        return fitted(aligner, case, len(lines))
    finally:
        rows.BUDGET = budget
        logger.removeHandler(handler)
