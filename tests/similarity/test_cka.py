"""CKA of one pair: definition, invariances and gradient."""

from __future__ import annotations

import math

import oracles_cka as oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

from structure_reg import cka, rv, tile_budget
from structure_reg.similarity import grams
from structure_reg.similarity.features import feature_sums, features_are_cheaper
from structure_reg.similarity.grams import Layer, gram_sums

FORMS = [
    {"kernel": kernel, "debiased": debiased}
    for kernel in ("linear", "rbf")
    for debiased in (True, False)
]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f['kernel']}-{f['debiased']}")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def related(n: int, dx: int, dy: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = normal(n, dx, seed=seed)
    return x, x @ normal(dx, dy, seed=seed + 1) + normal(n, dy, seed=seed + 2)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=7))[0]


@every_form
@settings(deadline=None, max_examples=40)
@given(n=st.integers(4, 40), widths=st.tuples(*2 * [st.integers(1, 50)]), seed=st.integers(0, 999))
def test_equals_the_definition(
    form: dict[str, object], n: int, widths: tuple[int, int], seed: int
) -> None:
    x, y = related(n, *widths, seed)
    expected = oracles.cka(x, y, **form)
    if math.isfinite(expected):
        # Few degrees of freedom are left at n = 4, so a self term may be close to zero.
        torch.testing.assert_close(cka(x, y, **form).item(), expected, rtol=1e-6, atol=1e-7)


def test_the_debiased_form_is_an_average_over_four_different_samples() -> None:
    x, y = related(7, 3, 5)
    K, L = (oracles.kernel_matrix(z, "linear") for z in (x, y))
    h = oracles.hsic_by_quadruples
    expected = h(K, L) / math.sqrt(h(K, K) * h(L, L))
    torch.testing.assert_close(cka(x, y).item(), expected)


@every_form
def test_does_not_notice_a_rotation_a_scale_a_shift_or_the_order(form: dict[str, object]) -> None:
    x, y = related(30, 6, 4)
    value = cka(x, y, **form)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    for x2, y2 in [
        (x @ rotation(6), y @ rotation(4)),
        (3.7 * x, 0.2 * y),
        (-x, y),
        (x + 100, y - 5),
        (x[order], y[order]),
        (y, x),
        (torch.cat([x, torch.zeros(30, 3, dtype=x.dtype)], 1), y),
    ]:
        torch.testing.assert_close(cka(x2, y2, **form), value)


@every_form
def test_notices_other_maps(form: dict[str, object]) -> None:
    x, y = related(30, 6, 4)
    value = cka(x, y, **form)
    for x2 in (x @ normal(6, 6, seed=5), x * normal(30, 1, seed=6).abs(), x.flip(0)):
        assert (cka(x2, y, **form) - value).abs() > 1e-3


@every_form
def test_is_one_for_the_same_features_and_at_most_one(form: dict[str, object]) -> None:
    x, y = related(30, 6, 4)
    torch.testing.assert_close(cka(x, x.clone(), **form), torch.tensor(1.0, dtype=x.dtype))
    assert cka(x, y, **form) < 1


def test_a_negative_value_is_not_clamped() -> None:
    values = [cka(normal(20, 30, seed=s), normal(20, 30, seed=s + 500)) for s in range(100)]
    below = sum(bool(value < 0) for value in values)
    assert 30 < below < 70
    assert abs(torch.stack(values).mean()) < 0.03


@every_form
def test_gradient(form: dict[str, object]) -> None:
    x, y = related(7, 2, 3)
    with tile_budget(5e-4):  # tiles of 4 x 4
        assert gradcheck(lambda x, y: cka(x, y, **form), (x.requires_grad_(), y.requires_grad_()))


def test_gradient_by_features() -> None:
    x, y = related(50, 2, 3)
    assert features_are_cheaper([Layer(x, None), Layer(y, None)], [(0, 0), (0, 1), (1, 1)])
    assert gradcheck(cka, (x.requires_grad_(), y.requires_grad_()))


def test_gradient_of_a_pair_of_itself_is_zero() -> None:
    x = normal(12, 4).requires_grad_()
    cka(x, x).backward()
    assert x.grad is not None
    assert x.grad.abs().max() < 1e-12


def test_gradient_in_float32_is_that_of_float64() -> None:
    x, y = related(64, 16, 8)
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = (100 + x).to(dtype).requires_grad_()
        cka(leaf, y.to(dtype)).backward()
        gradients.append(leaf.grad.double())
    scale = gradients[0].abs().max()
    assert (gradients[1] - gradients[0]).abs().max() < 1e-5 * scale


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_single(form: dict[str, object], dtype: torch.dtype) -> None:
    x, y = (z.to(dtype) for z in related(128, 96, 64))
    value = cka(x, y, **form)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.item(), oracles.cka(x, y, **form), rtol=2e-6, atol=2e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cka(x, y, **form), value)


@every_form
def test_the_tile_budget_changes_nothing(form: dict[str, object]) -> None:
    x, y = related(60, 70, 90)
    value = cka(x, y, **form)
    with tile_budget(1e-3):
        torch.testing.assert_close(cka(x, y, **form), value, rtol=1e-10, atol=0)


def test_both_routes_to_the_inner_products_agree() -> None:
    layers = [Layer(x, None) for x in (normal(80, 5), normal(80, 9, seed=1), normal(80, 2, seed=2))]
    layers = [grams.prepare(layer.x, "linear") for layer in layers]
    pairs = [(l, m) for l in range(3) for m in range(l, 3)]
    by_samples, margins = gram_sums(layers)
    with tile_budget(1e-4):
        by_features, _ = feature_sums(layers, pairs)
    torch.testing.assert_close(by_features, by_samples)
    K = torch.stack([layer.x @ layer.x.mT for layer in layers])
    torch.testing.assert_close(margins.rows + margins.diagonal, K.sum(2))


def test_rv_is_the_biased_linear_form() -> None:
    x, y = related(30, 6, 4)
    torch.testing.assert_close(rv(x, y).item(), oracles.rv(x, y))
    assert torch.equal(rv(x, y), cka(x, y, debiased=False))
    assert gradcheck(rv, (x[:6].requires_grad_(), y[:6].requires_grad_()))


def test_inputs_stay_as_they_are() -> None:
    x, y = related(20, 3, 4)
    before = x.clone(), y.clone()
    cka(x, y, kernel="rbf")
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((torch.ones(3, 2), torch.ones(3, 2)), {}, ValueError, "expected x with n >= 4 rows"),
        ((torch.ones(1, 2), torch.ones(1, 2)), {"debiased": False}, ValueError, "n >= 2 rows"),
        ((torch.ones(9, 2), torch.ones(8, 2)), {}, ValueError, "same number of rows, got 9 and 8"),
        ((torch.ones(9, 2), torch.ones(9, 2)), {"kernel": "cosine"}, ValueError, "'linear', 'rbf'"),
        ((torch.ones(9, 2).long(), torch.ones(9, 2)), {}, TypeError, "expected x in float16"),
        (({"x": 1.0}, torch.ones(9, 2)), {}, TypeError, "x to be an array or a tensor, got dict"),
    ],
)
def test_refuses(
    arguments: tuple[Tensor, Tensor],
    options: dict[str, object],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        cka(*arguments, **options)
