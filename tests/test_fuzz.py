"""A small share of the fuzz of tests/fuzz.py, with cases of their own seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import fuzz
import pytest
import torch

CASES = 240
PARTS = 6


@pytest.mark.parametrize("part", range(PARTS))
def test_every_case_is_as_promised(part: int) -> None:
    numbers = range(part * CASES // PARTS, (part + 1) * CASES // PARTS)
    failures = [
        f"{number} {case.function}: {message}"
        for number, case, outcome, message in fuzz.run(1, numbers)
        if outcome == "failed"
    ]
    assert not failures


def test_a_case_follows_from_its_number() -> None:
    (first, _), (again, _) = (fuzz.draw_case(0, 17) for _ in range(2))
    assert (first.function, first.options) == (again.function, again.options)
    assert all(x.equal(y) for x, y in zip(first.tensors, again.tensors, strict=True))


SHARP = ("alignment", "cka", "clip_loss", "structure_loss", "mutual_knn", "rv")


@pytest.mark.parametrize("error", [1e-3, float("nan"), -10.0])
def test_a_wrong_value_is_found(error: float) -> None:
    """Every case that compares a value in float64 notices an error of a thousandth."""
    compared = 0
    for number in range(300):
        case, rng = fuzz.draw_case(2, number)
        wide = all(x.dtype == torch.float64 for x in case.tensors)
        if case.function in SHARP and wide and fuzz.check(case, rng).startswith("value"):
            compared += 1
            case, rng = fuzz.draw_case(2, number)
            with pytest.raises(fuzz.Failure):
                fuzz.check(replace(case, call=off_by(case.call, error)), rng)
    assert compared >= 5


def off_by(call: Callable[..., Any], error: float) -> Callable[..., Any]:
    return lambda *tensors: call(*tensors) + error
