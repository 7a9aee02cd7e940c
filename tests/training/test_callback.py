"""What a callback is told is what the history holds, when it happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import normal
from processes import Processes

import structure_reg as sr

N = 80
SHARED = normal(N, 5, seed=0)
X = (SHARED @ normal(5, 9, seed=1) + 0.5 * normal(N, 9, seed=2)).float()
Y = (SHARED @ normal(5, 7, seed=3) + 0.5 * normal(N, 7, seed=4)).float()
NEW = (X[60:], Y[60:])
OPTIONS: dict[str, Any] = {  # of 9 steps
    "dim": 4,
    "epochs": 3,
    "batch_size": 16,
    "lr": 1e-2,
    "patience": 2.0,
}
Calls = list[tuple[int, dict[str, float]]]


def fitted(calls: Calls, **options: Any) -> sr.Aligner:
    return sr.Aligner(**OPTIONS | options).fit(
        X[:60], Y[:60], validation=NEW, callback=lambda *call: calls.append(call)
    )


def test_the_calls_are_the_history() -> None:
    calls: Calls = []
    aligner = fitted(calls)
    assert all(type(value) is float for _, values in calls for value in values.values())
    steps = [(step, values) for step, values in calls if "validation" not in values]
    assert [step for step, _ in steps] == list(range(9))
    assert {name: [values[name] for _, values in steps] for name in steps[0][1]} == aligner.history_
    validations = [(step, values) for step, values in calls if "validation" in values]
    assert [step for step, _ in validations] == aligner.history_["validation_step"]
    assert [values["validation"] for _, values in validations] == aligner.history_["validation"]
    order = [(step, "validation" not in values) for step, values in calls]
    assert order == sorted(order)
    assert order[-1] == (9, False)


def test_a_fit_that_stops_early() -> None:
    calls: Calls = []
    aligner = fitted(calls, lr=10.0, patience=0.05)
    assert "no better" in str(aligner.stopped_)
    step, values = calls[-1]
    assert step == len(aligner.history_["weight"]) < 9
    assert values == {"validation": aligner.history_["validation"][-1]}


@pytest.mark.parametrize("options", [{}, {"lr": "find"}, {"head": "mlp", "fusemix": 1.0}])
def test_a_callback_changes_nothing(options: dict[str, Any]) -> None:
    told = fitted([], **options)
    alone = sr.Aligner(**OPTIONS | options).fit(X[:60], Y[:60], validation=NEW)
    assert told.history_.lists() == alone.history_.lists()
    assert torch.equal(told.transform_x(X), alone.transform_x(X))


def test_closed_forms_call_none() -> None:
    calls: Calls = []
    fitted(calls, head="cca")
    assert calls == []


def test_an_error_ends_the_fit_and_keeps_the_one_before() -> None:
    aligner = sr.Aligner(**OPTIONS).fit(X, Y)
    before = aligner.transform_x(X)

    def callback(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise KeyError("full disk")

    with pytest.raises(KeyError, match="full disk"):
        aligner.fit(Y, X, callback=callback)
    assert torch.equal(aligner.transform_x(X), before)


@pytest.mark.parametrize("wrong", ["wandb", 3, [print]])
def test_what_cannot_be_called(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^Aligner.fit: expected callback to be callable, got "):
        sr.Aligner().fit(X, Y, callback=wrong)


GIVEN = {"all": (0, 1), "failing": (0, 1), "first": (0,), "second": (1,)}  # to which ranks


def told_in(group: Any, given: str) -> tuple[Calls, int | None]:
    """Calls on this process, and the number of pairs; each process has a share of them."""
    calls: Calls = []

    def callback(step: int, values: dict[str, float]) -> None:
        if given == "failing" and step == 2:
            raise OSError("full disk")
        calls.append((step, values))

    mine = slice(20, 60) if group.rank() else slice(20)
    aligner = sr.Aligner(**OPTIONS).fit(
        X[mine], Y[mine], group=group, callback=callback if group.rank() in GIVEN[given] else None
    )
    return calls, aligner.n_pairs_


@pytest.mark.parametrize("given", ["all", "first", "second"])
def test_the_first_process_of_a_group_is_told(given: str, processes: Processes) -> None:
    (first, pairs), (second, pairs_of_second) = processes.run((1, 3), told_in, given)
    assert [step for step, _ in first] == ([] if given == "second" else list(range(9)))
    assert second == []
    assert pairs == pairs_of_second == 60


def test_an_error_of_the_first_process_is_raised_on_all(processes: Processes) -> None:
    for error in processes.run((1, 3), told_in, "failing"):
        assert isinstance(error, RuntimeError), error
        assert "full disk" in str(error)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        aligner = sr.Aligner(**OPTIONS).fit(
            X[:60],
            Y[:60],
            validation=NEW,
            callback=lambda step, values: [writer.add_scalar(*v, step) for v in values.items()],
        )
    found = EventAccumulator(str(tmp_path)).Reload()
    for name in ("contrastive", "structure", "logit_scale", "weight", "validation"):
        values = [scalar.value for scalar in found.Scalars(name)]
        assert values == pytest.approx(aligner.history_[name])
