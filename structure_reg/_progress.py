"""A progress bar on stderr for loops that may take minutes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TypeVar

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
    try:
        tqdm = import_module("tqdm").tqdm
    except ImportError:
        raise no_tqdm(function) from None
    bar: Iterable[Item] = tqdm(iterable, desc=description, unit=unit, mininterval=1)
    return bar
