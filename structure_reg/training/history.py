"""What was measured while training: at every step, and at every validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALIDATION = ("validation_step", "validation")


class History(dict[str, list[float]]):
    """Lists with an entry for each step; `validation` holds lists with one for each validation.

    Their lengths differ, so they are two tables. `stopped` says when or why training stopped. An
    index finds the names of either table and "stopped".
    """

    stopped: str | None = None

    def __init__(self, lists: Mapping[str, list[float]] = {}, stopped: str | None = None) -> None:
        super().__init__((name, lists[name]) for name in lists if name not in VALIDATION)
        self.validation = {name: lists[name] for name in VALIDATION if name in lists}
        self.stopped = stopped

    def __missing__(self, name: str) -> Any:
        return self.stopped if name == "stopped" else self.validation[name]

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default

    def lists(self) -> dict[str, list[float]]:
        return {**self, **self.validation}
