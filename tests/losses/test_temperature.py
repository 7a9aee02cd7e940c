"""The temperature for a perplexity, and the diagnostics that report one."""

from __future__ import annotations

import math

import oracles
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from structure_reg import StructureDiagnostics, structure_diagnostics, temperature_for_perplexity


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(4, 60),
    share=st.floats(0.01, 0.99),
    centering=st.sampled_from(["after", "before", "none"]),
    seed=st.integers(0, 2**20),
)
def test_gives_the_wanted_perplexity(n: int, share: float, centering: str, seed: int) -> None:
    x, wanted = normal(n, 8, seed=seed), 1 + share * (n - 1)
    temperature = temperature_for_perplexity(x, wanted, centering=centering)
    assert oracles.perplexity(x.numpy(), temperature, centering) == pytest.approx(wanted, rel=2e-5)


def test_spans_tiles_and_half_precision() -> None:
    x = normal(1500, 16, seed=0, dtype=torch.float16)
    temperature = temperature_for_perplexity(x, 40.0)
    exact = oracles.perplexity(x.double().numpy(), temperature)
    assert exact == pytest.approx(40.0, rel=1e-4)


def test_says_when_equal_rows_leave_no_temperature() -> None:
    pairs = normal(10, 4, seed=0).repeat(2, 1)
    assert temperature_for_perplexity(pairs, 2.5) > 0
    with pytest.raises(ValueError, match=r"perplexity of 1.5, got rows whose nearest is 2, becau"):
        temperature_for_perplexity(pairs, 1.5)
    with pytest.raises(ValueError, match=r"perplexity of 5, got rows whose nearest is 20"):
        temperature_for_perplexity(torch.ones(20, 3), 5.0)


@pytest.mark.parametrize("perplexity", [1.0, 10.0, 0.0, float("nan"), -3.0])
def test_refuses_a_perplexity_that_n_rows_cannot_have(perplexity: float) -> None:
    message = r"^temperature_for_perplexity: expected perplexity > 1 and perplexity < 10, got"
    with pytest.raises(ValueError, match=message):
        temperature_for_perplexity(normal(10, 3, seed=0), perplexity)


def test_nan_in_nan_out() -> None:
    x = normal(10, 3, seed=0)
    x[0, 0] = torch.nan
    assert math.isnan(temperature_for_perplexity(x, 3.0))


def test_diagnostics_tell_a_collapsed_head() -> None:
    x = normal(40, 8, seed=0, dtype=torch.float32)
    point = structure_diagnostics(x, x[:1].expand(40, -1))
    line = structure_diagnostics(x, x[:, :1] * torch.ones(1, 8))
    healthy = structure_diagnostics(x, x)
    assert isinstance(point, StructureDiagnostics)
    assert point.aligned_mean_cosine == pytest.approx(1.0)
    assert point.aligned_participation_ratio == 0.0
    assert point.aligned_perplexity == pytest.approx(40.0)
    assert line.aligned_participation_ratio == pytest.approx(1.0)
    assert healthy.aligned_mean_cosine.abs() < 0.1
    assert healthy.aligned_participation_ratio > 5
    assert healthy.frozen_self_mass == healthy.aligned_self_mass


def test_diagnostics_print_as_a_table() -> None:
    x = normal(40, 8, seed=0)
    lines = str(structure_diagnostics(x, x)).splitlines()
    assert lines[0].split() == ["frozen", "aligned"]
    assert [len(line) for line in lines] == [40] * 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_perplexity_just_within_reach(dtype: torch.dtype) -> None:
    """Rows that are nearly equal need a far smaller temperature than rows that are not."""
    g = torch.Generator().manual_seed(0)
    clusters = torch.randn(8, 16, generator=g, dtype=dtype).repeat_interleave(4, 0)
    noise = 100 * torch.finfo(dtype).eps ** 0.5
    x = clusters + noise * torch.randn(32, 16, generator=g, dtype=dtype)
    for perplexity in (1.001, 1.5, 3.9, 31.99):
        tau = temperature_for_perplexity(x, perplexity)
        reached = structure_diagnostics(x, x, temperature=tau).frozen_perplexity.item()
        assert reached == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.parametrize("wide", [0, 1])
def test_diagnostics_of_mixed_dtypes_are_float64(wide: int) -> None:
    sides = [normal(20, 6, seed=seed, dtype=torch.float32) for seed in (0, 1)]
    sides[wide] = sides[wide].double()
    found = structure_diagnostics(*sides)
    expected = oracles.structure_diagnostics(*(x.double().numpy() for x in sides))
    assert {value.dtype for value in found} == {torch.float64}
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-11)
