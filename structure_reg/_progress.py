"""A progress bar on stderr for loops that may take minutes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from structure_reg._checks import no_tqdm

Item = TypeVar("Item")


def progress_bar(
    function: str, iterable: Iterable[Item], *, show: bool, description: str, unit: str
) -> Iterable[Item]:
    """Wrap an iterable in a tqdm bar if `show`; otherwise return it as it is.

    `function` is the public function that an error about a missing tqdm names.
    """
    if not show:
        return iterable
    bar: Iterable[Item] = tqdm_of(function)(iterable, desc=description, unit=unit, mininterval=1)
    return bar


class Progress:
    """One bar over the stages of a function, whose numbers of steps are planned.

    The remaining time is that of all stages, at the rate of the latest steps. What a stage needs
    less than planned is taken off the total, and what it needs more is added.
    """

    def __init__(self, function: str, stages: Mapping[str, int], *, show: bool) -> None:
        self.planned, self.left = dict(stages), 0
        total = sum(stages.values())
        self.bar = tqdm_of(function)(total=total, unit="step", mininterval=1) if show else None

    def stage(self, name: str, steps: int | None = None) -> None:
        """End the stage before and begin the next, with the number of steps if it is known now."""
        planned = self.planned.pop(name)
        self._plan(self.left, planned if steps is None else steps, planned)
        if self.bar is not None:
            self.bar.set_description(name)

    def step(self) -> None:
        if self.left == 0:
            self._plan(0, 1, 0)
        self.left -= 1
        if self.bar is not None:
            self.bar.update()

    def _plan(self, unused: int, steps: int, planned: int) -> None:
        self.left = steps
        if self.bar is not None:
            self.bar.total += steps - planned - unused

    def __enter__(self) -> Progress:
        """Return the bar itself; meanwhile :func:`progress_step` moves it."""
        global _current
        self.before, _current = _current, self
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the last stage, or leave the bar where an error stopped it."""
        global _current
        _current = self.before
        if self.bar is not None:
            if kind is None:
                self._plan(self.left, 0, 0)
                self.bar.refresh()
            self.bar.close()


_current: Progress | None = None


def progress_step() -> None:
    """Move the bar that is shown, if there is one, from deep below what shows it."""
    if _current is not None:
        _current.step()


def tqdm_of(function: str) -> Any:
    try:
        return import_module("tqdm").tqdm
    except ImportError:
        raise no_tqdm(function) from None
