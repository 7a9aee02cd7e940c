"""What was measured while training: at every step, and at every validation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VALIDATION = ("validation_step", "validation")


class History(dict[str, list[float]]):
    """Lists with an entry for each step; `validation` holds lists with one for each validation.

    Their lengths differ, so they are two tables. An index finds the names of either, as before
    there were two.
    """

    def __init__(self, lists: Mapping[str, list[float]] = {}) -> None:
        super().__init__((name, lists[name]) for name in lists if name not in VALIDATION)
        self.validation = {name: lists[name] for name in VALIDATION if name in lists}

    def __missing__(self, name: str) -> list[float]:
        return self.validation[name]

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, self.validation.get(name, default))

    def lists(self) -> dict[str, list[float]]:
        return {**self, **self.validation}
