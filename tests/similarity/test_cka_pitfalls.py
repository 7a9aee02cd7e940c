"""Inputs for which other packages return wrong values; each docstring names the wrong value."""

from __future__ import annotations

import math

import oracles_cka as oracles
import pytest
import torch
from torch import Tensor

from structure_reg import CKA, MinibatchCKA, cka
from structure_reg.similarity.cka import cka_grid
from structure_reg.similarity.null import cka_null

FORMS = [(kernel, debiased) for kernel in ("linear", "rbf") for debiased in (True, False)]
every_form = pytest.mark.parametrize(("kernel", "debiased"), FORMS)


def noise(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


@every_form
@pytest.mark.parametrize("mean", [100.0, 1000.0])
def test_a_common_mean_far_from_zero(kernel: str, debiased: bool, mean: float) -> None:
    """Wrong: 1.0000, 0.0000, nan or -inf for float32 features with a mean of 100 or 1000."""
    x = noise(256, 64, 0)
    y = x + noise(256, 64, 1)
    x, y = x + mean, y + mean
    value = cka(x, y, kernel=kernel, debiased=debiased).item()
    expected = oracles.cka(x, y, kernel=kernel, debiased=debiased)
    assert value == pytest.approx(expected, abs=2e-6)
    assert 0.4 < value < 0.9


@every_form
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e-4, 1e-2, 1e4, 1e6, 1e10, 1e30])
def test_any_scale(kernel: str, debiased: bool, scale: float) -> None:
    """Wrong: 0 or 0.0001 for small scales, where an epsilon was added; 0 or nan for large ones."""
    x, y = noise(128, 32, 0), noise(128, 32, 1) + noise(128, 32, 0)
    form = {"kernel": kernel, "debiased": debiased}
    assert cka(scale * x, x, **form).item() == pytest.approx(1, abs=1e-6)
    assert cka(scale * x, y, **form).item() == pytest.approx(cka(x, y, **form).item(), abs=1e-6)


@every_form
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_of_a_large_spread(kernel: str, debiased: bool, dtype: torch.dtype) -> None:
    """Wrong: nan, from squares and sums beyond 65504."""
    x = (8 * noise(128, 768, 0)).to(dtype)
    assert cka(x, x.clone(), kernel=kernel, debiased=debiased).item() == pytest.approx(1, abs=1e-6)


def test_many_more_features_than_samples() -> None:
    """Wrong: 0.98 for independent noise, which is the value of the biased form."""
    x, y = noise(64, 4096, 0), noise(64, 4096, 1)
    assert cka(x, y, debiased=False) > 0.97
    assert abs(cka(x, y)) < 4 * math.sqrt(2 / (64 * 61))
    assert cka(x, y).item() == pytest.approx(oracles.cka(x, y), abs=2e-6)


def test_chance_is_zero_and_half_of_it_is_below() -> None:
    """Wrong: a mean of 0.0092 over random draws, because negative values were clamped."""
    x, y = noise(64, 512, 0), noise(64, 512, 1)
    g = torch.Generator().manual_seed(2)
    draws = cka_null([x], [y], torch.stack([torch.randperm(64, generator=g) for _ in range(400)]))
    assert abs(draws.mean()) < 4 * math.sqrt(2 / (64 * 61)) / 20
    assert 160 < (draws < 0).sum() < 240


@every_form
def test_a_constant_layer_has_no_value(kernel: str, debiased: bool) -> None:
    """Wrong: a silent 0. The value is 0 / 0, so it is NaN; other pairs of a grid are unaffected."""
    x, constant = noise(40, 8, 0), torch.full((40, 8), 0.1)
    form = {"kernel": kernel, "debiased": debiased}
    assert cka(x, constant, **form).isnan()
    assert cka(constant, constant, **form).isnan()
    grid = cka_grid([x, constant], [x, constant], **form)
    assert grid.isnan().tolist() == [[False, True], [True, True]]
    draws = cka_null([x, constant], [x], torch.arange(40)[None], **form)
    assert draws.isnan().tolist() == [[[False], [True]]]


@every_form
def test_one_nan_is_not_hidden(kernel: str, debiased: bool) -> None:
    x, y = noise(40, 8, 0), noise(40, 8, 1)
    broken = x.clone()
    broken[3, 1] = torch.nan
    grid = cka_grid([x, broken], [y], kernel=kernel, debiased=debiased)
    assert grid.isnan().tolist() == [[False], [True]]


def test_too_few_samples() -> None:
    """Wrong: nan, from a division by n - 3."""
    with pytest.raises(ValueError, match="cka: expected x with n >= 4 rows"):
        cka(noise(3, 8, 0), noise(3, 8, 1))
    assert cka(noise(4, 8, 0), noise(4, 8, 1)).isfinite()
    assert cka(noise(2, 8, 0), noise(2, 8, 1), debiased=False).item() == pytest.approx(1)


def test_the_debiased_form_has_debiased_denominators() -> None:
    """Wrong: 0.46 instead of 0.71, from dividing the debiased sum by biased norms."""
    x = noise(400, 300, 0)
    y = x + noise(400, 300, 1)
    K, L = (oracles.kernel_matrix(z, "linear") for z in (x, y))
    h, b = oracles.hsic_debiased, oracles.hsic_biased
    mixed = h(K, L) / math.sqrt(b(K, K) * b(L, L))
    right = h(K, L) / math.sqrt(h(K, K) * h(L, L))
    assert right - mixed > 0.1
    assert cka(x, y).item() == pytest.approx(right, abs=2e-6)


def test_every_batch_counts() -> None:
    """Wrong: the value of the last batch alone, or an error for features of shape (n, d)."""
    x = noise(40, 6, 0) * torch.linspace(0.1, 3, 40)[:, None]
    y = x + noise(40, 6, 1)
    for stream in (CKA(), MinibatchCKA()):
        for batch in (slice(20), slice(20, 40)):
            stream.update(x[batch], y[batch])
        assert abs(stream.compute() - cka(x[20:], y[20:])) > 0.01


def test_the_layer_and_not_its_place_decides() -> None:
    """Wrong: neighbours of another tensor, cached between calls under the same name."""
    x, y, z = (noise(40, 6, s) for s in range(3))
    first = cka_grid([x], [y])
    x.copy_(z)
    assert torch.equal(cka_grid([x], [y]), cka_grid([z], [y]))
    assert not torch.equal(cka_grid([x], [y]), first)
