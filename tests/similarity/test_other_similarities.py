"""CCA and its variants, Procrustes, RSA and RV: definitions, invariances, chance, edge cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import permutations

import oracles_cka as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from structure_reg import cca, procrustes, pwcca, rsa, rv, svcca

ALL = [cca, svcca, pwcca, procrustes, rsa, rv]
every_similarity = pytest.mark.parametrize("similarity", ALL)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def related(n: int, dx: int, dy: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = normal(n, dx, seed=seed)
    return x, x @ normal(dx, dy, seed=seed + 1) + normal(n, dy, seed=seed + 2)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=7))[0]


@pytest.mark.parametrize(
    ("similarity", "options"),
    [
        (cca, {}),
        (svcca, {}),
        (svcca, {"keep": 2}),
        (svcca, {"keep": 0.7}),
        (svcca, {"keep": 1.0}),
        (pwcca, {}),
        (procrustes, {}),
        (rsa, {}),
        (rsa, {"correlation": "spearman"}),
        (rv, {}),
    ],
    ids=lambda p: getattr(p, "__name__", str(p)),
)
@settings(deadline=None, max_examples=25)
@given(n=st.integers(20, 40), widths=st.tuples(*2 * [st.integers(2, 8)]), seed=st.integers(0, 999))
def test_equals_the_definition(
    similarity: Callable[..., Tensor],
    options: dict[str, object],
    n: int,
    widths: tuple[int, int],
    seed: int,
) -> None:
    x, y = related(n, *widths, seed)
    expected = getattr(oracles, similarity.__name__)(x, y, **options)
    # The cosine in SciPy loses half of its digits for angles near zero.
    torch.testing.assert_close(similarity(x, y, **options).item(), expected, rtol=1e-7, atol=1e-7)


def scaled_columns(x: Tensor) -> Tensor:
    return x * torch.logspace(-1, 1, x.shape[1], dtype=x.dtype)


def other_units(x: Tensor) -> Tensor:
    return x * torch.logspace(-8, 8, x.shape[1], dtype=x.dtype)


CHANGES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "scale and shift": lambda x, y: (3.7 * x + 5, -0.2 * y - 9),
    "order": lambda x, y: (x.flip(0), y.flip(0)),
    "rotate y": lambda x, y: (x, y @ rotation(y.shape[1])),
    "rotate x": lambda x, y: (x @ rotation(x.shape[1]), y),
    "map y": lambda x, y: (x, scaled_columns(y) @ normal(y.shape[1], 4, seed=8)),
    "map x": lambda x, y: (scaled_columns(x) @ normal(x.shape[1], 6, seed=8), y),
    "other units of y": lambda x, y: (x, other_units(y)),
    "other units of x": lambda x, y: (other_units(x), y),
    "swap": lambda x, y: (y, x),
    "scale rows": lambda x, y: (x * normal(len(x), 1, seed=3).abs(), y),
}
ROTATIONS = {"scale and shift", "order", "rotate x", "rotate y", "swap"}
KEEPS = {
    cca: ROTATIONS | {"map x", "map y", "other units of x", "other units of y"},
    svcca: ROTATIONS,
    pwcca: {"scale and shift", "order", "rotate y", "map y", "other units of y"},
    procrustes: ROTATIONS,
    rsa: ROTATIONS,
    rv: ROTATIONS,
}


@every_similarity
@pytest.mark.parametrize("change", CHANGES)
def test_notices_a_change_or_does_not(similarity: Callable[..., Tensor], change: str) -> None:
    x, y = related(30, 6, 4)
    options = {"keep": 3} if similarity is svcca else {}
    x = scaled_columns(x).flip(1)
    value, changed = similarity(x, y, **options), similarity(*CHANGES[change](x, y), **options)
    if change in KEEPS[similarity]:
        torch.testing.assert_close(changed, value, rtol=1e-9, atol=1e-9)
    else:
        assert (changed - value).abs() > 1e-4


@every_similarity
def test_range(similarity: Callable[..., Tensor]) -> None:
    x, y = related(30, 6, 4)
    torch.testing.assert_close(similarity(x, x), torch.tensor(1.0).double())
    assert -1 <= similarity(x, y) < 1


@every_similarity
@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(3, 20),
    widths=st.tuples(*2 * [st.integers(1, 8)]),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]),
    alike=st.sampled_from(["itself", "scaled", "integers", "unrelated"]),
)
def test_never_leaves_its_range(
    similarity: Callable[..., Tensor],
    n: int,
    widths: tuple[int, int],
    seed: int,
    dtype: torch.dtype,
    alike: str,
) -> None:
    """Not even by rounding: arccos of a cosine above 1 is NaN."""
    x, y = normal(n, widths[0], seed=seed), normal(n, widths[1], seed=seed + 1)
    if alike == "integers":
        x, y = x.round(), y.round()
    y = {"itself": x, "scaled": -3.7 * x + 5}.get(alike, y)
    least = -1 if similarity is rsa else 0
    for options in ({}, {"correlation": "spearman"})[: 2 if similarity is rsa else 1]:
        value = similarity(x.to(dtype), y.to(dtype), **options).item()
        assert math.isnan(value) or least <= value <= 1


@every_similarity
def test_half_precision_is_computed_in_single(similarity: Callable[..., Tensor]) -> None:
    x, y = (z.half() for z in related(60, 8, 5))
    value = similarity(x, y)
    assert value.dtype == torch.float32
    expected = getattr(oracles, similarity.__name__)(x, y)
    torch.testing.assert_close(value.item(), expected, rtol=2e-6, atol=2e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(similarity(x, y), value)


@every_similarity
@pytest.mark.parametrize("scale", [1e-6, 1e10])
@pytest.mark.parametrize("mean", [0, 100, 1000])
def test_scale_and_mean_in_float32(
    similarity: Callable[..., Tensor], scale: float, mean: float
) -> None:
    x, y = (z.float() for z in related(100, 6, 5))
    x, y = scale * (x + mean), y + mean
    expected = getattr(oracles, similarity.__name__)(x, y)
    torch.testing.assert_close(similarity(x, y).item(), expected, rtol=5e-6, atol=5e-6)


@every_similarity
def test_a_constant_side_or_a_nan_is_nan(similarity: Callable[..., Tensor]) -> None:
    x, y = (z.float() for z in related(30, 6, 4))
    assert similarity(torch.full((30, 3), 0.1), y).isnan()
    assert similarity(x, torch.full((30, 3), 0.1)).isnan()
    x[3, 2] = math.nan
    assert similarity(x, y).isnan()
    assert similarity(y, x).isnan()


@pytest.mark.parametrize("similarity", [procrustes, rsa])
def test_gradient(similarity: Callable[..., Tensor]) -> None:
    x, y = related(9, 3, 5)
    assert gradcheck(similarity, (x.requires_grad_(), y.requires_grad_()))


def test_gradient_with_fewer_samples_than_features() -> None:
    x, y = related(5, 8, 7)
    assert gradcheck(procrustes, (x.requires_grad_(), y.requires_grad_()))


def test_equal_rows_have_a_finite_gradient_in_rsa() -> None:
    x, y = related(9, 3, 5)
    x[1] = x[0]
    x.requires_grad_()
    rsa(x, y).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


# Chance levels and edge cases, as documented.


@pytest.mark.parametrize("d", [50, 90])
def test_cca_is_one_with_as_many_features_as_samples(d: int) -> None:
    x, y = normal(51, d), normal(51, d, seed=1)
    for similarity in (cca, pwcca):
        torch.testing.assert_close(similarity(x, y), torch.tensor(1.0).double())
    assert svcca(x, y, keep=5) < 0.6


def test_square_correlations_of_unrelated_features() -> None:
    """The mean is max(dx, dy) / (n - 1) for CCA and k / (n - 1) for SVCCA with k components."""
    draws = [(normal(41, 1, seed=s), normal(41, 6, seed=s + 10**4)) for s in range(400)]
    squares = torch.stack([cca(x, y) ** 2 for x, y in draws])
    assert squares.mean() == pytest.approx(6 / 40, abs=4 * squares.std().item() / 20)
    draws = [(normal(41, 60, seed=s), normal(41, 60, seed=s + 10**4)) for s in range(400)]
    squares = torch.stack([svcca(x, y, keep=1) ** 2 for x, y in draws])
    assert squares.mean() == pytest.approx(1 / 40, abs=4 * squares.std().item() / 20)


def test_a_rank_is_counted_and_not_the_columns() -> None:
    x, y = related(40, 4, 3)
    wide = x @ normal(4, 10, seed=9)
    torch.testing.assert_close(cca(wide, y), cca(x, y))
    torch.testing.assert_close(cca(wide.float(), y.float()).double(), cca(x, y), rtol=0, atol=1e-5)
    torch.testing.assert_close(pwcca(y, wide), pwcca(y, x))


def test_columns_in_their_own_units() -> None:
    """The rank was relative to the largest column, so that float32 lost all but the platelets."""
    z = normal(500, 4)
    units = torch.tensor([20, 80_000, 0.1, 0.3]).double()
    x = (
        z * units + torch.tensor([50, 250_000, 0.5, 1]).double()
    )  # age, platelets, ratio, creatinine
    y = z[:, [0, 2, 3]] + normal(500, 3, seed=1)
    expected = oracles.cca(z, y)
    for dtype in (torch.float32, torch.float64):
        torch.testing.assert_close(cca(x.to(dtype), y).item(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(pwcca(y, x.float()).item(), oracles.pwcca(y, z), rtol=1e-6, atol=0)


@settings(deadline=None, max_examples=25)
@given(exponents=st.lists(st.integers(-8, 8), min_size=2, max_size=6), single=st.booleans())
def test_any_units(exponents: list[int], single: bool) -> None:
    d = len(exponents)
    x, y = related(40, d, 3)
    x, y = (z.float() if single else z for z in (x, y))
    units = 10.0 ** torch.tensor(exponents, dtype=x.dtype)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if single else {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(cca(x * units, y), cca(x, y), **tolerance)
    torch.testing.assert_close(cca(y, x * units), cca(y, x), **tolerance)
    torch.testing.assert_close(pwcca(y, x * units), pwcca(y, x), **tolerance)
    # All components, whatever their size, span what the columns span.
    torch.testing.assert_close(svcca(x * units, y, keep=9), cca(x, y), **tolerance)


def test_a_fill_row_hides_no_direction() -> None:
    x, y = (z.float() for z in related(200, 30, 20))
    x[3] = -9999
    torch.testing.assert_close(cca(x, y).item(), oracles.cca(x, y), rtol=1e-5, atol=0)


def test_columns_that_hold_only_rounding_are_dropped() -> None:
    x, y = (z.float() for z in related(60, 5, 3))
    constant = torch.full((60, 1), 0.1)
    constant[::7] = torch.nextafter(constant[0], torch.ones(1))
    for more in (constant, x[:, :2] @ normal(2, 9).float() + 100):
        torch.testing.assert_close(cca(torch.cat([x, more], 1), y), cca(x, y), rtol=0, atol=1e-5)


def test_svcca_of_all_the_variance_is_cca() -> None:
    x, y = related(40, 4, 3)
    torch.testing.assert_close(svcca(x, y, keep=1.0), cca(x, y))
    torch.testing.assert_close(svcca(x, y, keep=99), cca(x, y))


def test_procrustes_of_unrelated_features() -> None:
    """With 64 samples: about 0.3, 0.76 and 0.97 for 8, 64 and 512 features."""
    for d, expected in ((8, 0.3), (64, 0.76), (512, 0.97)):
        draws = [procrustes(normal(64, d, seed=s), normal(64, d, seed=s + 9)) for s in range(9)]
        assert torch.stack(draws).mean().item() == pytest.approx(expected, abs=0.03)


def test_procrustes_distance_is_a_metric() -> None:
    x, y, z = normal(20, 4), normal(20, 5, seed=1), normal(20, 3, seed=2)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return (2 - 2 * procrustes(a, b)).clamp_min(0).sqrt()

    assert distance(x, z) <= distance(x, y) + distance(y, z)
    assert distance(x, x) < 1e-7


def test_rsa_averages_to_zero_over_all_re_pairings() -> None:
    x, y = related(6, 3, 2)
    values = [rsa(x, y[list(p)]) for p in permutations(range(6))]
    torch.testing.assert_close(torch.stack(values).mean(), torch.tensor(0.0).double())


def test_rsa_of_equidistant_rows_is_nan() -> None:
    x = torch.eye(5, dtype=torch.float64)
    assert rsa(x, normal(5, 3)).isnan()
    assert rsa(x, normal(5, 3), correlation="spearman").isnan()


@pytest.mark.parametrize("correlation", ["pearson", "spearman"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_rsa_of_an_infinite_entry_is_nan(correlation: str, value: float) -> None:
    """Ranks made a number of it."""
    x, y = related(9, 3, 4)
    x[2, 1] = value
    assert rsa(x, y, correlation=correlation).isnan()
    assert rsa(y, x, correlation=correlation).isnan()


def test_ranks_share_ties() -> None:
    x = torch.tensor([[0.0], [1.0], [2.0], [3.0], [3.0]])
    y = torch.tensor([[0.0], [5.0], [2.0], [1.0], [1.0]])
    expected = oracles.rsa(x, y, correlation="spearman")
    assert rsa(x, y, correlation="spearman").item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("similarity", "options", "error", "message"),
    [
        (svcca, {"keep": 0}, ValueError, "expected keep >= 1, got 0"),
        (svcca, {"keep": 0.0}, ValueError, "expected keep > 0"),
        (svcca, {"keep": 1.5}, ValueError, "a share of at most 1.0 or an integer, got 1.5"),
        (svcca, {"keep": "all"}, TypeError, "expected keep to be a number"),
        (svcca, {"keep": True}, TypeError, "expected keep to be an integer"),
        (rsa, {"correlation": "kendall"}, ValueError, "'pearson', 'spearman'"),
    ],
)
def test_refuses_options(
    similarity: Callable[..., Tensor],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        similarity(normal(9, 2), normal(9, 2), **options)


@every_similarity
def test_refuses_features(similarity: Callable[..., Tensor]) -> None:
    name = similarity.__name__
    with pytest.raises(ValueError, match=f"{name}: expected x and y with the same number of rows"):
        similarity(normal(9, 2), normal(8, 2))
    with pytest.raises(ValueError, match=rf"{name}: expected x of shape \(n, d\)"):
        similarity(normal(9), normal(9, 2))
    with pytest.raises(ValueError, match=f"{name}: expected x with n >= "):
        similarity(normal(1, 2), normal(1, 2))
