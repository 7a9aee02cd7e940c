"""What the user is told while heads are trained: each step and each validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from structure_reg.training.together import is_first, of_first, together

Callback = Callable[[int, dict[str, float]], Any]


def on_first(callback: Callback | None, group: Any) -> Callback | None:
    """The first process's callback as all processes call it: its error is raised on all."""
    if not of_first(callback is not None, group):
        return None

    def call(step: int, values: dict[str, float]) -> None:
        together(lambda: callback(step, values) if callback and is_first(group) else None, group)

    return call
