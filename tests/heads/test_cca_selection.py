"""The chosen ridges and power against refitting from the definition, fold by fold."""

from __future__ import annotations

import itertools

import numpy as np
import oracles_heads
import pytest
import torch
from contract import normal
from torch import Tensor

import structure_reg as sr
from structure_reg.heads.cca_selection import POWERS, RIDGES, SCALES
from structure_reg.heads.folds import folds


def noisy(n: int, noise: float = 2.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    shared = normal(n, 6, seed=seed)
    x = shared @ normal(6, 20, seed=1) + noise * normal(n, 20, seed=seed + 2)
    return x, shared @ normal(6, 15, seed=3) + noise * normal(n, 15, seed=seed + 4)


def parts_of(x: Tensor, ids: Tensor | None, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Rows that each fold is fitted to, and rows that it holds out."""
    rows, fold = folds("test", x, ids, 4, 2000, torch.Generator().manual_seed(seed))
    return [(rows[fold != k], rows[fold == k]) for k in range(4)]


def loss_of(cosines: np.ndarray, scale: float, same: np.ndarray) -> float:
    Z = np.exp(scale * cosines)
    rows = -np.log((Z * same).sum(1) / Z.sum(1)).mean()
    columns = -np.log((Z * same).sum(0) / Z.sum(0)).mean()
    return float((rows + columns) / 2)


@pytest.mark.parametrize("copies", [False, True])
def test_loss_is_that_of_heads_refitted_without_the_held_out_pairs(copies: bool) -> None:
    x, y = noisy(64)
    ids = torch.arange(64) // 2 if copies else None
    selection = sr.select_cca(x, y, ids=ids)
    n = 48
    ridge = tuple(r * len(x) / n for r in selection.ridge)  # as in the folds
    values = []
    for kept, out in parts_of(x, ids, seed=0):
        head_x, head_y = sr.fit_cca(x[kept], y[kept], ridge=ridge, power=selection.power)
        a, b = head_x(x[out]).detach().numpy(), head_y(y[out]).detach().numpy()
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        b /= np.linalg.norm(b, axis=1, keepdims=True)
        own = out.numpy() // 2 if copies else np.arange(len(out))
        values.append(loss_of(a @ b.T, selection.logit_scale, own[:, None] == own))
    assert selection.loss == pytest.approx(np.mean(values), rel=1e-8)


def test_no_equal_ridge_with_any_power_or_scale_is_better() -> None:
    x, y = noisy(80)
    selection = sr.select_cca(x, y)
    parts = parts_of(x, None, seed=0)
    for both, power in itertools.product(RIDGES, POWERS):
        losses = []
        for kept, out in parts:
            head_x, head_y = sr.fit_cca(x[kept], y[kept], ridge=both, power=power)
            a, b = (torch.nn.functional.normalize(z) for z in (head_x(x[out]), head_y(y[out])))
            cosines = (a @ b.T).detach().numpy()
            losses.append([loss_of(cosines, scale, np.eye(len(out)) > 0) for scale in SCALES])
        assert selection.loss <= np.mean(losses, 0).min() + 1e-9


def test_more_noise_asks_for_more_shrinking() -> None:
    clean, noisier = (sr.select_cca(*noisy(200, noise)) for noise in (0.3, 6.0))
    assert sum(noisier.ridge) > sum(clean.ridge)
    assert noisier.loss > clean.loss


def test_ids_stay_together_and_folds_cover_every_row_once() -> None:
    x, ids = normal(90, 3, seed=0), torch.arange(90) // 3
    parts = parts_of(x, ids, seed=1)
    assert sorted(torch.cat([out for _, out in parts]).tolist()) == list(range(90))
    for kept, out in parts:
        assert not set(ids[kept].tolist()) & set(ids[out].tolist())
        assert len(kept) + len(out) == 90


def test_the_penalty_of_a_sample_is_that_of_all() -> None:
    x, y = noisy(400)
    some = sr.select_cca(x, y, max_samples=100)
    grid = {ridge * 75 / 400 for ridge in RIDGES}
    assert all(any(abs(r - g) < 1e-9 for g in grid) for r in some.ridge)


def test_seeded_and_without_the_global_generator() -> None:
    x, y = noisy(60)
    torch.manual_seed(1)
    first = sr.select_cca(x, y)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = sr.select_cca(x, y)
    assert isinstance(again, sr.CcaSelection)
    assert again == first
    assert torch.equal(torch.get_rng_state(), state)


def test_a_ridge_for_each_side_is_the_oracles() -> None:
    x, y = (z - z.mean(0) for z in noisy(60))
    options = {"power": 1.5, "dim": 3, "standardise": False}
    head_x, head_y = sr.fit_cca(x, y, ridge=(0.5, 0.5), **options)  # type: ignore[arg-type]
    expected = oracles_heads.cca_scores(
        x.numpy(), y.numpy(), x.numpy(), y.numpy(), ridge=0.5, dim=3, power=1.5
    )
    a, b = (torch.nn.functional.normalize(h(z)) for h, z in ((head_x, x), (head_y, y)))
    np.testing.assert_allclose((a @ b.T).detach().numpy(), expected, atol=1e-9)


def test_sides_swap_with_their_ridges() -> None:
    x, y = noisy(60)
    head_x, head_y = sr.fit_cca(x, y, ridge=(0.1, 5.0), power=1.0)
    swapped_y, swapped_x = sr.fit_cca(y, x, ridge=(5.0, 0.1), power=1.0)
    a, b = (torch.nn.functional.normalize(z) for z in (head_x(x), head_y(y)))
    c, d = (torch.nn.functional.normalize(z) for z in (swapped_x(x), swapped_y(y)))
    torch.testing.assert_close(a @ b.T, c @ d.T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(20, dtype=torch.long)}, "at least 8 pairs with different ids"),
        ({"ids": torch.zeros(20)}, "integer"),
        ({"max_samples": 7}, "max_samples"),
    ],
)
def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    x, y = noisy(20)
    with pytest.raises((TypeError, ValueError), match=message):
        sr.select_cca(x, y, **change)  # type: ignore[arg-type]


def test_three_ridges_are_refused() -> None:
    with pytest.raises(ValueError, match="fit_cca: expected ridge to be one number or two, got 3"):
        sr.fit_cca(*noisy(20), ridge=(1.0, 1.0, 1.0))  # type: ignore[arg-type]
