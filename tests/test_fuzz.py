"""A small share of the fuzz of tests/fuzz.py, with cases of their own seed."""

from __future__ import annotations

import fuzz
import pytest

CASES = 400
PARTS = 8


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


@pytest.mark.parametrize("error", [1e-3, float("nan"), -10.0])
def test_a_wrong_value_is_found(error: float) -> None:
    """Of the cases that compare values, or know their range, all notice an error this large."""
    noticed, compared = 0, 0
    for number in range(120):
        case, rng = fuzz.draw_case(2, number)
        if case.function not in ("alignment", "cka", "clip_loss", "structure_loss", "mutual_knn"):
            continue
        try:
            outcome = fuzz.check(case, rng)
        except fuzz.Failure:
            continue
        if not outcome.startswith("value"):
            continue
        case, rng = fuzz.draw_case(2, number)
        compared += 1
        wrong = fuzz.replace(case, call=off_by(case.call, error))
        with pytest.raises(fuzz.Failure):
            fuzz.check(wrong, rng)
        noticed += 1
    assert noticed == compared > 10


def off_by(call, error):  # type: ignore[no-untyped-def]
    return lambda *tensors: call(*tensors) + error
