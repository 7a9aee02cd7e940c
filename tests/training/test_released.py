"""The released training: what it does, and where it differs."""

from __future__ import annotations

import math

import pytest
import torch
from contract import normal

import structure_reg as sr
from structure_reg.training.released import climbing_cosine


@pytest.mark.parametrize(("pairs", "epoch"), [(300, 1000), (5000, 1000), (10_000, 500)])
def test_ramp_is_in_steps(pairs: int, epoch: int) -> None:
    """Whole at step 1000: that many epochs, where a step takes 4096 pairs."""
    aligner = sr.released_aligner(pairs)
    assert aligner.warmup * 1000 == pytest.approx(epoch)


def test_learning_rate_climbs_again_after_fifty_steps() -> None:
    schedule = sr.released_aligner(300).lr_schedule
    assert schedule is not None
    assert schedule(0.0) == 1.0
    assert schedule(50 / 1000) == pytest.approx(0.0)
    assert schedule(100 / 1000) == pytest.approx(1.0)
    assert climbing_cosine(0.025, steps=1000, half=50) == pytest.approx(0.5)


def test_what_is_minimised() -> None:
    x, y = normal(40, 8, seed=0).float(), normal(40, 6, seed=1).float()
    aligner = sr.released_aligner(40, epochs=4).fit(x, y)
    torch.manual_seed(42)
    head_x, head_y = sr.LinearHead(8, 512), sr.LinearHead(6, 512)
    z_x, z_y = head_x(x), head_y(y)
    R = [
        sr.structure_loss(a, z, temperature=0.05, divergence="reverse_js")
        for a, z in ((x, z_x), (y, z_y))
    ]
    history = aligner.history_
    assert history["contrastive"][0] == pytest.approx(sr.clip_loss(z_x, z_y, 20.0).item(), 1e-5)
    assert history["structure"][0] == pytest.approx((R[0] + R[1]).item() / 2, 1e-4)
    assert history["logit_scale"] == pytest.approx([20.0] * 4)
    assert history["weight"] == pytest.approx([0.0, 0.01, 0.02, 0.03])


def test_mlp_is_a_linear_map_without_bias() -> None:
    x, y = normal(40, 8, seed=0).float(), normal(40, 6, seed=1).float()
    head_x, _ = sr.released_aligner(40, head="mlp", epochs=2).fit(x, y).heads_
    assert isinstance(head_x, sr.LinearHead)
    assert head_x.bias is None
    assert torch.allclose(head_x(-x), -head_x(x))


def test_validation_is_the_objective() -> None:
    x, y = normal(60, 8, seed=0).float(), normal(60, 6, seed=1).float()
    aligner = sr.released_aligner(40, epochs=10).fit(x[:40], y[:40], validation=(x[40:], y[40:]))
    assert all(score < 0 and math.isfinite(score) for score in aligner.history_["validation"])


@pytest.mark.parametrize("options", [{"pairs": 1}, {"pairs": 10, "head": "sail"}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        sr.released_aligner(**options)  # type: ignore[arg-type]
