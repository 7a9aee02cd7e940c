"""A progress bar on stderr for loops that may take minutes."""

from __future__ import annotations

from collections.abc import Iterable
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
    """One bar over the stages of a function, the last of which may have many steps."""

    def __init__(self, function: str, *, stages: int, show: bool) -> None:
        self.bar = tqdm_of(function)(total=stages, unit="step", mininterval=1) if show else None
        self.begun = False

    def stage(self, description: str, steps: int = 1) -> None:
        """End the stage before, and begin one of as many steps."""
        if self.bar is None:
            return
        if self.begun:
            self.bar.update()
        self.begun = True
        self.bar.total += steps - 1
        self.bar.set_description(description)

    def step(self) -> None:
        if self.bar is not None:
            self.bar.update()

    def __enter__(self) -> Progress:
        """Return the bar itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as far as it came."""
        if self.bar is not None:
            self.bar.close()


def tqdm_of(function: str) -> Any:
    try:
        return import_module("tqdm").tqdm
    except ImportError:
        raise no_tqdm(function) from None
