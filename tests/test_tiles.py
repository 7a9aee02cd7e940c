"""The tile budget: a bound on rows, restored after its block."""

from __future__ import annotations

import pytest

from structure_reg import tile_budget
from structure_reg._tiles import tile_rows


def test_rows_follow_the_budget() -> None:
    default = tile_rows(2**16)
    with tile_budget(1):
        assert tile_rows(2**12) == 256
        assert tile_rows(2**30) == 16
        with tile_budget(2):
            assert tile_rows(2**12) == 512
        assert tile_rows(2**12) == 256
    assert tile_rows(2**16) == default


def test_is_restored_after_an_error() -> None:
    default = tile_rows(2**16)
    with pytest.raises(KeyError), tile_budget(1):
        raise KeyError
    assert tile_rows(2**16) == default


@pytest.mark.parametrize(("budget", "error"), [(0, ValueError), ("1", TypeError)])
def test_refuses_what_is_no_size(budget: float, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^tile_budget: expected mebibytes"), tile_budget(budget):
        pass
