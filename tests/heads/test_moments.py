"""Moments against NumPy, whatever the way in which the pairs came, and the heads fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import GROUPS
from torch import Tensor

import structure_reg as sr
from structure_reg.heads.moments import STRIP, PairRows, moments_of_regression
from structure_reg.heads.spectra import spectra_of_few_rows, spectra_of_rows

Fit = Callable[..., Any]


def related(n: int, seed: int = 0, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    shared = normal(n, 4, seed=seed)
    x = shared @ normal(4, 12, seed=90) + 0.5 * normal(n, 12, seed=seed + 1)
    return x + shift, shared @ normal(4, 9, seed=91) + 0.5 * normal(n, 9, seed=seed + 2) - shift


def oracle(x: Tensor, y: Tensor) -> dict[str, np.ndarray]:
    X, Y = (z.double().numpy() for z in (x, y))
    A, B = X - X.mean(0), Y - Y.mean(0)
    return {
        "mean_x": X.mean(0), "mean_y": Y.mean(0), "M_xx": A.T @ A, "M_xy": A.T @ B, "M_yy": B.T @ B
    }  # fmt: skip


def assert_moments(moments: sr.PairMoments, x: Tensor, y: Tensor, rtol: float = 1e-11) -> None:
    assert moments.n == len(moments) == len(x)
    for name, expected in oracle(x, y).items():
        found = getattr(moments, name).numpy()
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_any_batches_give_the_moments_of_all_pairs(sizes: list[int], seed: int) -> None:
    x, y = related(sum(sizes), seed)
    moments, others = sr.PairMoments(), sr.PairMoments()
    for i, (a, b) in enumerate(zip(x.split(sizes), y.split(sizes), strict=True)):
        (moments if i % 2 else others).update(a, b)
    assert_moments(moments.merge(others), x, y)


def test_a_large_common_offset_costs_no_digits() -> None:
    """Sums of squares would lose 12 of 16 digits here."""
    x, y = related(500, shift=1e6)
    moments = sr.PairMoments()
    for rows in torch.arange(500).split(64):
        moments.update(x[rows], y[rows])
    assert_moments(moments, x, y, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_features_are_accumulated_in_float64(dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in related(300))
    moments = sr.PairMoments().update(x, y)
    assert moments.M_xx.dtype == torch.float64
    assert_moments(moments, x, y)
    assert sr.fit_ridge(moments)[0].weight.dtype == torch.float32


def test_a_regression_spares_the_products_of_y() -> None:
    x, y = related(1000, shift=3.0)
    with sr.tile_budget(1e-3):  # many blocks
        few = moments_of_regression("test", PairRows(x, y))
    all_of_them = sr.PairMoments().update(x, y)
    for name in ("mean_x", "mean_y", "M_xx", "M_xy"):
        torch.testing.assert_close(getattr(few, name), getattr(all_of_them, name))
    torch.testing.assert_close(few.M_yy, all_of_them.M_yy.diagonal().diag())


def test_more_columns_than_a_strip() -> None:
    x, y = normal(50, STRIP + 7, seed=0), normal(50, STRIP + 130, seed=1)
    with sr.tile_budget(0.5):
        assert_moments(sr.PairMoments().update(x, y), x, y)


FITS: list[tuple[Fit, dict[str, Any]]] = [
    (sr.fit_ridge, {"ridge": 0.1}),
    (sr.fit_ridge, {"ridge": 0.0}),
    (sr.fit_cca, {"ridge": (0.1, 1.0), "power": 1.0}),
    (sr.fit_cca, {"ridge": 0.0, "dim": 3}),
    (sr.fit_csa, {"ridge": 1.0, "standardise": False}),
]


@pytest.mark.parametrize(("fit", "options"), FITS)
def test_heads_are_those_of_the_pairs(fit: Fit, options: dict[str, Any]) -> None:
    """From a stream, from a tensor that outnumbers its columns, and by thin SVDs of its rows."""
    x, y = related(400)
    scores = []
    stream = sr.PairMoments()
    for rows in torch.arange(400).split(30):
        stream.update(x[rows], y[rows])
    for arguments in ((stream,), (x, y)):
        head_x, head_y = fit(*arguments, **options)
        a, b = (torch.nn.functional.normalize(h(z)) for h, z in ((head_x, x), (head_y, y)))
        scores.append(a @ b.mT)
    torch.testing.assert_close(scores[0], scores[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize(("fit", "options"), FITS)
def test_moments_and_rows_give_the_same_scores(
    fit: Fit, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = related(400)

    def scores() -> Tensor:
        head_x, head_y = fit(x, y, **options)
        return torch.nn.functional.normalize(head_x(x)) @ torch.nn.functional.normalize(head_y(y)).T

    by_moments = scores()
    for module in ("ridge", "spectra"):
        monkeypatch.setattr(f"structure_reg.heads.{module}.outnumber_columns", lambda _: False)
    torch.testing.assert_close(by_moments, scores(), rtol=0, atol=1e-8)


def test_columns_that_repeat_are_fitted_to_rows() -> None:
    """Moments of a rank-deficient side without a ridge have no digits left; rows have."""
    x, y = related(200)
    twice = torch.cat([x, x], 1)
    head, _ = sr.fit_cca(x, y, ridge=0.0, dim=4)
    head_of_twice, _ = sr.fit_cca(twice, y, ridge=0.0, dim=4)
    torch.testing.assert_close(head(x).abs(), head_of_twice(twice).abs(), rtol=0, atol=1e-7)


def test_procrustes_of_moments_is_that_of_unit_rows() -> None:
    x, y = (z - z.mean(0) for z in related(300))
    a, b = (torch.nn.functional.normalize(z) for z in (x, y))
    a, b = a - a.mean(0), b - b.mean(0)
    of_moments = sr.fit_procrustes(sr.PairMoments().update(a, b), standardise=False)
    U, _, Vh = torch.linalg.svd(a.T @ b, full_matrices=False)
    expected = (x @ U) @ (y @ Vh.T).T
    found = (x @ of_moments[0].weight.T) @ (y @ of_moments[1].weight.T).T
    torch.testing.assert_close(found, expected)


def test_tiles_do_not_change_procrustes() -> None:
    x, y = related(300)
    whole = sr.fit_procrustes(x, y)[0](x)
    with sr.tile_budget(0.01):
        torch.testing.assert_close(sr.fit_procrustes(x, y)[0](x), whole)


def test_few_rows_have_the_spectrum_of_a_singular_value_decomposition() -> None:
    x, y = normal(20, 40, seed=0), normal(20, 15, seed=1)
    fast, exact = (f("test", x, y, True) for f in (spectra_of_few_rows, spectra_of_rows))
    for S, T in ((fast.x, exact.x), (fast.y, exact.y)):
        torch.testing.assert_close(S.s, T.s, rtol=0, atol=1e-6)
        r = int((T.s > 1e-6).sum())
        torch.testing.assert_close((S.V[:, :r] * T.V[:, :r]).sum(0).abs(), torch.ones(r).double())


def reduced(group: Any) -> tuple[Any, ...]:
    """Uneven shards; the first process of several has none."""
    rank, world = group.rank(), group.size()
    x, y = related(60)
    own = torch.arange(60) % max(1, world - 1) == rank - (world > 1)
    moments = sr.PairMoments()
    if own.any():
        moments.update(x[own], y[own])
    moments.all_reduce(group)
    return moments.n, moments.mean_x, moments.M_xx, moments.M_xy, moments.M_yy


@pytest.mark.parametrize("ranks", GROUPS)
def test_processes_together_have_the_moments_of_all_pairs(processes, ranks) -> None:
    x, y = related(60)
    expected = oracle(x, y)
    for n, *found in processes.run(ranks, reduced):
        assert n == 60
        for name, value in zip(("mean_x", "M_xx", "M_xy", "M_yy"), found, strict=True):
            np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-9, atol=1e-9)


def reduced_uneven(group: Any) -> None:
    d = 3 + group.rank()
    sr.PairMoments().update(torch.ones(4, d), torch.ones(4, 2)).all_reduce(group)


def test_processes_with_other_widths_are_refused(processes) -> None:
    for error in processes.run((0, 1), reduced_uneven):
        assert isinstance(error, ValueError)
        assert "the same widths (d_x, d_y) on every process, got (3, 2) and (4, 2)" in str(error)


class TestErrors:
    def test_what_is_not_finite_is_refused_and_nothing_is_added(self) -> None:
        x, y = related(20)
        moments = sr.PairMoments().update(x, y)
        before = moments.M_xx
        with pytest.raises(ValueError, match=r"PairMoments\.update: expected y to be finite"):
            moments.update(x, y.index_fill(0, torch.tensor(3), float("inf")))
        assert moments.n == 20
        assert torch.equal(moments.M_xx, before)

    def test_huge_finite_values_are_not_infinite(self) -> None:
        x = torch.full((8, 3), 3e38)
        assert sr.PairMoments().update(x, x).n == 8

    def test_widths_stay(self) -> None:
        moments = sr.PairMoments().update(*related(20))
        with pytest.raises(ValueError, match="expected x with the 12 columns of the pairs before"):
            moments.update(torch.ones(3, 5), torch.ones(3, 9))
        with pytest.raises(ValueError, match=r"merge: expected y with the 9 columns"):
            moments.merge(sr.PairMoments().update(torch.ones(3, 12), torch.ones(3, 5)))

    @pytest.mark.parametrize("fit", [sr.fit_ridge, sr.fit_cca, sr.fit_csa, sr.fit_procrustes])
    def test_moments_stand_alone(self, fit: Fit) -> None:
        moments = sr.PairMoments().update(*related(20))
        with pytest.raises(TypeError, match=f"{fit.__name__}: expected PairMoments without y"):
            fit(moments, torch.ones(20, 9))
        with pytest.raises(ValueError, match="moments of at least 2 pairs, got 0"):
            fit(sr.PairMoments())

    def test_of_no_pairs(self) -> None:
        assert repr(sr.PairMoments()) == "PairMoments(n=0, d_x=0, d_y=0)"
        with pytest.raises(ValueError, match="PairMoments: expected at least one pair, got none"):
            _ = sr.PairMoments().mean_x
