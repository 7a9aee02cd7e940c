"""Weight and learning rate as functions of the share of training that is done, in [0, 1]."""

from __future__ import annotations

import math


def linear_warmup(done: float, share: float) -> float:
    """From 0 to 1 over the first `share` of training, then 1."""
    return 1.0 if done >= share else done / share


def cosine_decay(done: float) -> float:
    """From 1 to 0 along half a cosine."""
    return (1 + math.cos(math.pi * done)) / 2


def constant(done: float) -> float:  # noqa: ARG001 - what a schedule is called with
    """Stay at 1."""
    return 1.0
