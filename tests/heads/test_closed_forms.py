"""Closed forms equal their definitions and have the right invariances."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles_heads
import pytest
import torch
from contract import normal, rotation
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from structure_reg import (
    AsifHead,
    CsaHead,
    LinearHead,
    PairMoments,
    fit_asif,
    fit_cca,
    fit_csa,
    fit_procrustes,
    fit_ridge,
    select_cca,
)
from structure_reg.heads.moments import PairRows
from structure_reg.heads.ridge import regression
from structure_reg.heads.ridge_selection import (
    RIDGES,
    from_coarse_to_fine,
    leave_one_out_error,
)

FITS: dict[Callable[..., Any], tuple[Callable[..., Any], dict[str, Any]]] = {
    fit_ridge: (oracles_heads.ridge_scores, {"ridge": 0.7}),
    fit_cca: (oracles_heads.cca_scores, {"ridge": 0.7, "dim": 3, "power": 1.5}),
    fit_csa: (oracles_heads.csa_scores, {"ridge": 0.7, "dim": 3, "power": 1.5}),
    fit_procrustes: (oracles_heads.procrustes_scores, {"dim": 3}),
    fit_asif: (oracles_heads.asif_scores, {"k": 4, "power": 3.0}),
}
every_fit = pytest.mark.parametrize("fit", FITS, ids=lambda fit: fit.__name__)
Fit = Callable[..., Any]


def pairs(n: int, d_x: int = 7, d_y: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views of four factors, with different column scales and a nonzero mean."""
    factors = normal(n, 4, seed=seed)
    sides = []
    for d, s in ((d_x, 1), (d_y, 2)):
        mixed = factors @ normal(4, d, seed=100 + s) + 0.5 * normal(n, d, seed=seed + s)
        sides.append(mixed * normal(1, d, seed=200 + s).exp() + 3)
    return sides[0], sides[1]


def scores(heads: tuple[Any, Any], x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return normalize(heads[0](x), dim=1) @ normalize(heads[1](y), dim=1).T


X_TEST, Y_TEST = pairs(9, seed=50)


@every_fit
@pytest.mark.parametrize("standardise", [True, False])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(5, 40), seed=st.integers(0, 2**20))
def test_equals_its_definition(fit: Fit, standardise: bool, n: int, seed: int) -> None:
    """With more rows than columns, and with fewer."""
    x, y = pairs(n, seed=seed)
    oracle, options = FITS[fit]
    found = scores(fit(x, y, standardise=standardise, **options), X_TEST, Y_TEST)
    x_train, x_test = oracles_heads.prepared(x.numpy(), X_TEST.numpy(), standardise)
    y_train, y_test = oracles_heads.prepared(y.numpy(), Y_TEST.numpy(), standardise)
    expected = oracle(x_train, y_train, x_test, y_test, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)


@every_fit
def test_the_cosine_is_what_swapping_moving_and_turning_leave(fit: Fit) -> None:
    x, y = pairs(30)
    oracle_free = {**FITS[fit][1], "standardise": False}
    expected = scores(fit(x, y, **oracle_free), X_TEST, Y_TEST)
    turn = rotation(7)
    turned = scores(fit(x @ turn, y, **oracle_free), X_TEST @ turn, Y_TEST)
    moved = scores(fit(x + 4, 3 * y - 2, **oracle_free), X_TEST + 4, 3 * Y_TEST - 2)
    for found in (turned, moved):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    swapped = scores(fit(y, x, **oracle_free), Y_TEST, X_TEST).T
    assert torch.allclose(swapped, expected, rtol=1e-8, atol=1e-10) == (fit is not fit_ridge)


@every_fit
def test_standardised_columns_forget_their_scale(fit: Fit) -> None:
    x, y = pairs(30)
    stretch = normal(1, 7, seed=9).exp()
    for standardise in (True, False):
        options = {**FITS[fit][1], "standardise": standardise}
        expected = scores(fit(x, y, **options), X_TEST, Y_TEST)
        found = scores(fit(x * stretch, y, **options), X_TEST * stretch, Y_TEST)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10) == standardise


@every_fit
def test_order_and_number_of_copies_of_the_pairs_do_not_matter(fit: Fit) -> None:
    """Penalties are relative, so repeating every pair changes nothing."""
    x, y = pairs(30)
    options = FITS[fit][1]
    expected = scores(fit(x, y, **options), X_TEST, Y_TEST)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    permuted = scores(fit(x[order], y[order], **options), X_TEST, Y_TEST)
    torch.testing.assert_close(permuted, expected, rtol=1e-8, atol=1e-10)
    if fit is not fit_asif:  # whose k counts anchors
        doubled = scores(fit(x.repeat(2, 1), y.repeat(2, 1), **options), X_TEST, Y_TEST)
        torch.testing.assert_close(doubled, expected, rtol=1e-8, atol=1e-10)


@every_fit
@pytest.mark.parametrize("constant", [0.1, 1e6])
@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_a_constant_column_is_no_column(fit: Fit, constant: float, ridge: float) -> None:
    x, y = pairs(30)
    padded = torch.cat([x, torch.full((30, 1), constant, dtype=x.dtype)], 1)
    test = torch.cat([X_TEST, normal(9, 1, seed=3)], 1)
    options = {name: ridge for name in ("ridge",) if name in FITS[fit][1]}
    expected = scores(fit(x, y, **options), X_TEST, Y_TEST)
    found = scores(fit(padded, y, **options), test, Y_TEST)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@every_fit
@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_few_pairs_of_wide_features(fit: Fit, n: int, dtype: torch.dtype) -> None:
    x, y = (side.to(dtype) for side in pairs(n, d_x=40, d_y=30))
    heads = fit(x, y)
    z_x, z_y = (head(side.to(head_dtype(head))) for head, side in zip(heads, (x, y), strict=True))
    assert z_x.isfinite().all()
    assert z_y.isfinite().all()
    assert head_dtype(heads[0]) == torch.promote_types(dtype, torch.float32)
    # Two centred rows are opposite on both sides; with more, partners are closer on average.
    S = normalize(z_x, dim=1) @ normalize(z_y, dim=1).T
    assert S.diagonal().mean() > S.mean()


def head_dtype(head: torch.nn.Module) -> torch.dtype:
    return next(iter(head.state_dict().values())).dtype


@every_fit
def test_equal_rows_and_the_global_generator_stay_as_they_are(fit: Fit) -> None:
    x, y = torch.ones(5, 4), normal(5, 3, seed=0, dtype=torch.float32)
    state = torch.get_rng_state()
    heads = fit(x, y)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0](x), torch.zeros_like(heads[0](x)))
    assert heads[1](y).isfinite().all()


def test_without_a_ridge_canonical_variates_are_white_and_correlate_in_pairs() -> None:
    x, y = pairs(60)
    head_x, head_y = fit_cca(x, y, ridge=0.0)
    weights = fit_csa(x, y, ridge=0.0)[0].weights
    a, b = head_x(x).detach(), head_y(y).detach()
    white = torch.eye(5, dtype=torch.float64)
    for found, expected in ((a.T @ a, white), (b.T @ b, white), (a.T @ b, weights.diag())):
        torch.testing.assert_close(found / 60, expected, rtol=1e-9, atol=1e-9)
    assert (weights.diff() <= 0).all()
    assert torch.equal(fit_csa(x, y, ridge=0.0, power=2.0)[0].weights, weights**2)


def test_without_a_ridge_wide_features_are_regressed_exactly() -> None:
    x, y = pairs(10, d_x=40)
    head_x, head_y = fit_ridge(x, y, ridge=0.0)
    torch.testing.assert_close(head_x(x), head_y(y), rtol=1e-8, atol=1e-8)


def test_csa_without_power_is_the_cosine_of_cca() -> None:
    x, y = pairs(30)
    plain = scores(fit_cca(x, y, dim=3, ridge=1.0), X_TEST, Y_TEST)
    found = scores(fit_csa(x, y, dim=3, ridge=1.0, power=0.0), X_TEST, Y_TEST)
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)


def test_kinds_and_widths() -> None:
    x, y = pairs(30)
    shapes = {
        fit_ridge: (LinearHead, 5),
        fit_cca: (LinearHead, 5),
        fit_procrustes: (LinearHead, 5),
        fit_csa: (CsaHead, 7),
        fit_asif: (AsifHead, 30),
    }
    for fit, (kind, width) in shapes.items():
        for head, side in zip(fit(x, y), (x, y), strict=True):
            assert type(head) is kind
            assert head(side).shape == (30, width)


def test_asif_keeps_k_entries_at_the_most() -> None:
    x, y = pairs(30)
    head, _ = fit_asif(x, y, k=3, power=1.0)
    kept = head(X_TEST)
    assert ((kept > 0).sum(1) <= 3).all()
    assert (kept >= 0).all()


@every_fit
def test_refuses(fit: Fit) -> None:
    x, y = pairs(10)
    name = fit.__name__
    with pytest.raises(TypeError, match=f"^{name}: expected x to be an array or a tensor, got str"):
        fit("x", y)
    with pytest.raises(ValueError, match=f"^{name}: expected x and y with the same number of rows"):
        fit(x, y[:9])
    with pytest.raises(ValueError, match=f"^{name}: expected x with n >= 2 rows"):
        fit(x[:1], y[:1])
    for value in (torch.nan, torch.inf):
        y[3, 2] = value
        with pytest.raises(
            ValueError, match=f"^{name}: expected y to be finite, got NaN or infinity"
        ):
            fit(x, y)


@pytest.mark.parametrize(
    ("fit", "options", "error", "message"),
    [
        (fit_ridge, {"ridge": -1.0}, ValueError, "ridge >= 0, got -1"),
        (fit_ridge, {"ridge": (1.0, 1.0)}, TypeError, "ridge to be a number, got tuple"),
        (fit_cca, {"dim": 6}, ValueError, r"dim <= min\(n - 1, d_x, d_y\) = 5, got 6"),
        (fit_csa, {"dim": 0}, ValueError, "dim >= 1, got 0"),
        (fit_csa, {"power": -1.0}, ValueError, "power >= 0, got -1"),
        (fit_cca, {"power": "1"}, TypeError, "power to be a number, got str"),
        (fit_procrustes, {"dim": 2.0}, TypeError, "dim to be an integer, got float"),
        (fit_asif, {"k": 11}, ValueError, "k <= 10, got 11"),
        (fit_asif, {"power": 0.0}, ValueError, "power > 0, got 0"),
    ],
)
def test_refuses_options(
    fit: Fit, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^{fit.__name__}: expected {message}"):
        fit(*pairs(10), **options)


def test_ridge_is_that_of_refitting_without_each_pair() -> None:
    """Leaving out a pair and fitting again, for every penalty, with the scaling of all pairs."""
    x, y = (z - z.mean(0) for z in pairs(40))
    errors = {}
    for ridge in RIDGES[::3]:
        error = 0.0
        for i in range(40):
            kept = torch.arange(40) != i
            a, b = x[kept] - x[kept].mean(0), y[kept] - y[kept].mean(0)
            # The penalty of all pairs: it is the fit that leaves one out, not what is penalised.
            penalty = ridge * x.square().sum() / x.shape[1]
            B = torch.linalg.solve(a.T @ a + penalty * torch.eye(x.shape[1]), a.T @ b)
            error += float((y[i] - y[kept].mean(0) - (x[i] - x[kept].mean(0)) @ B).square().sum())
        errors[ridge] = error
    r = regression("test", PairRows(x, y), 1.0, False)
    for ridge, error in errors.items():
        assert leave_one_out_error(r.S, r.VXY, r.y, PairRows(x, y))(ridge) == pytest.approx(error)


@pytest.mark.parametrize("noise", [0.0, 0.1, 3.0, 100.0])
@pytest.mark.parametrize("decay", [0.0, 1.0, 2.5])
def test_the_search_finds_an_error_as_small_as_that_of_all_ridges(
    noise: float, decay: float
) -> None:
    of_columns = torch.arange(1, 33) ** -decay
    x = (normal(600, 32, seed=0) * of_columns) @ rotation(32)
    y = x @ normal(32, 6, seed=1)
    y = y + noise * y.std() * normal(600, 6, seed=2)
    r = regression("test", PairRows(x, y), 1.0, True)
    error = leave_one_out_error(r.S, r.VXY, r.y, PairRows(x, y))
    asked = []
    found = from_coarse_to_fine(lambda ridge: asked.append(ridge) or error(ridge))
    assert error(found) <= 1.001 * min(map(error, RIDGES))
    assert len(set(asked)) == len(asked) <= 11


@pytest.mark.parametrize("best", RIDGES)
def test_the_search_reaches_every_ridge(best: float) -> None:
    assert from_coarse_to_fine(lambda ridge: abs(np.log(ridge / best))) == best


def test_few_pairs_compare_all_ridges() -> None:
    x, y = pairs(60)
    r = regression("test", PairRows(x, y), None, True)
    assert r.ridge == min(RIDGES, key=leave_one_out_error(r.S, r.VXY, r.y, PairRows(x, y)))


def test_the_default_ridge_follows_the_noise() -> None:
    x = normal(100, 12, seed=0)
    clean = x @ normal(12, 6, seed=1)
    errors = []
    for noise in (0.1, 10.0):
        y = clean + noise * normal(100, 6, seed=2)
        errors.append(regression("test", PairRows(x, y), None, True).ridge)
    assert errors[0] < errors[1] / 10


def test_moments_choose_a_ridge_like_that_of_the_pairs() -> None:
    x, y = normal(400, 12, seed=0), normal(400, 12, seed=0)[:, :6] + 2 * normal(400, 6, seed=1)
    of_pairs = regression("test", PairRows(x, y), None, True).ridge
    of_moments = regression("test", PairMoments().update(x, y), None, True).ridge
    assert 0.3 < of_pairs / of_moments < 3


def test_cca_chooses_what_held_out_pairs_choose() -> None:
    x, y = pairs(60)
    chosen = select_cca(x, y)
    fixed = scores(fit_cca(x, y, ridge=chosen.ridge, power=chosen.power), X_TEST, Y_TEST)
    torch.testing.assert_close(scores(fit_cca(x, y), X_TEST, Y_TEST), fixed)
    other = scores(fit_cca(x, y, power=chosen.power + 1), X_TEST, Y_TEST)
    expected = fit_cca(x, y, ridge=chosen.ridge, power=chosen.power + 1)
    torch.testing.assert_close(other, scores(expected, X_TEST, Y_TEST))
    weights = fit_csa(x, y)[0].weights
    assert torch.equal(weights, fit_csa(x, y, ridge=chosen.ridge)[0].weights)


def test_fewer_pairs_than_can_be_held_out_are_shrunk_all_the_same() -> None:
    x, y = pairs(5)
    fixed = scores(fit_cca(x, y, ridge=10.0, power=1.0), X_TEST, Y_TEST)
    torch.testing.assert_close(scores(fit_cca(x, y), X_TEST, Y_TEST), fixed)


@pytest.mark.parametrize("fit", [fit_cca, fit_csa])
def test_moments_need_a_ridge(fit: Fit) -> None:
    with pytest.raises(ValueError, match="expected ridge to be a number with PairMoments"):
        fit(PairMoments().update(*pairs(20)))
