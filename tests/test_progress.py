"""One bar over the stages of a function, with a total that follows what the stages need."""

from __future__ import annotations

import pytest

from structure_reg import _progress
from structure_reg._progress import Progress, progress_step


class Bar:
    """What `Progress` asks of tqdm."""

    last: Bar

    def __init__(self, *, total: int, **_: object) -> None:
        self.total, self.n, self.names = total, 0, []
        Bar.last = self

    def set_description(self, name: str) -> None:
        self.names.append(name)

    def update(self) -> None:
        self.n += 1

    def refresh(self) -> None: ...

    def close(self) -> None:
        self.names.append("closed")


@pytest.fixture(autouse=True)
def bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_progress, "tqdm_of", lambda _: Bar)


def test_the_total_is_that_of_all_stages_and_follows_them() -> None:
    with Progress("f", {"a": 10, "b": 2, "c": 30}, show=True) as progress:
        totals = [Bar.last.total]
        progress.stage("a")
        for _ in range(4):
            progress_step()
        progress.stage("b")  # six steps less than planned
        totals.append(Bar.last.total)
        for _ in range(3):
            progress_step()  # one more
        totals.append(Bar.last.total)
        progress.stage("c", 50)  # known now
        totals.append(Bar.last.total)
        for _ in range(20):
            progress.step()
    assert totals == [42, 36, 37, 57]
    assert Bar.last.n == Bar.last.total == 4 + 3 + 20
    assert Bar.last.names == ["a", "b", "c", "closed"]


def fail() -> None:
    with Progress("f", {"a": 5}, show=True) as progress:
        progress.stage("a")
        progress_step()
        raise KeyError


def test_an_error_leaves_the_bar_where_it_is() -> None:
    with pytest.raises(KeyError):
        fail()
    assert (Bar.last.n, Bar.last.total) == (1, 5)
    progress_step()
    assert Bar.last.n == 1


def test_the_inner_of_two_moves() -> None:
    with Progress("f", {"a": 5}, show=True) as outer:
        outer.stage("a")
        with Progress("g", {"b": 1}, show=False) as inner:
            inner.stage("b")
            progress_step()
        progress_step()
        assert Bar.last.n == 1
