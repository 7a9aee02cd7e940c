"""The closed form of chance equals the average over all permutations."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from torch import Tensor

from structure_reg import CKA, cka, cka_chance
from structure_reg.similarity.null import cka_null


def all_permutations(n: int) -> Tensor:
    return torch.tensor(list(permutations(range(n))))


def skewed(n: int, d: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64).exp()


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("n", [4, 6, 7])
def test_equals_all_permutations(kernel: str, debiased: bool, n: int) -> None:
    xs, ys = [skewed(n, 3, 0), skewed(n, 20, 1)], [skewed(n, 2, 2)]
    draws = cka_null(xs, ys, all_permutations(n), kernel=kernel, debiased=debiased)
    mean, sd = cka_chance(xs, ys, kernel=kernel, debiased=debiased)
    assert mean.shape == sd.shape == (2, 1)
    torch.testing.assert_close(mean, draws.mean(0), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(sd, draws.std(0, correction=0), rtol=1e-9, atol=1e-12)


def test_independent_noise_scores_high_when_biased() -> None:
    """With 64 samples: 0.196, 0.497, 0.893 and 0.984 for 16, 64, 512 and 4096 features."""
    means = []
    for d in (16, 64, 512, 4096):
        g = torch.Generator().manual_seed(d)
        x, y = (torch.randn(64, d, generator=g) for _ in range(2))
        means.append(cka_chance([x], [y], debiased=False).mean.item())
    assert means == pytest.approx([0.196, 0.497, 0.893, 0.984], abs=0.015)


def test_refuses_too_few_rows() -> None:
    x = torch.ones(3, 2)
    with pytest.raises(ValueError, match="n >= 4 rows"):
        cka_chance([x], [x], debiased=False)


@pytest.mark.parametrize("debiased", [True, False])
def test_mappings_are_their_values(debiased: bool) -> None:
    xs, ys = [skewed(9, 3, 0), skewed(9, 5, 1)], [skewed(9, 2, 2)]
    named = cka_chance(dict(enumerate(xs, 5)), {"last": ys[0]}, debiased=debiased)
    for ours, expected in zip(named, cka_chance(xs, ys, debiased=debiased), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("debiased", ["False", 0, None])
def test_refuses_what_is_no_bool(debiased: object) -> None:
    x = skewed(9, 3, 0)
    for name, call in (
        ("cka_chance", lambda: cka_chance([x], [x], debiased=debiased)),
        ("cka", lambda: cka(x, x, debiased=debiased)),
        ("CKA", lambda: CKA(debiased=debiased)),
    ):
        with pytest.raises(TypeError, match=f"^{name}: expected debiased to be a bool, got "):
            call()
