"""CLIP and SigLIP: closed forms, learnable scales, ids, degenerate rows."""

from __future__ import annotations

from math import exp, log, log1p

import oracles
import pytest
import torch
from contract import IDS, normal, one_width
from torch.nn.functional import cross_entropy, normalize

from structure_reg import ClipLoss, SigLipLoss, clip_loss, siglip_loss


def test_clip_is_the_mean_of_two_cross_entropies() -> None:
    """The form that open_clip writes down, on rows it has normalised."""
    x, y = (normalize(t, dim=1) for t in one_width(12, 0))
    logits, labels = 100.0 * x @ y.T, torch.arange(12)
    expected = (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2
    torch.testing.assert_close(clip_loss(x, y, 100.0), expected)


def test_siglip_of_orthogonal_pairs_by_hand() -> None:
    x = torch.eye(4, dtype=torch.float64)
    positive, negative = log1p(exp(-(3.0 - 1.0))), log1p(exp(-1.0))
    assert siglip_loss(x, x, 3.0, -1.0) == pytest.approx(positive + 3 * negative, rel=1e-12)


def test_clip_of_one_group_costs_the_entropy_of_its_targets() -> None:
    x = torch.eye(5, dtype=torch.float64)
    same = torch.zeros(5, dtype=torch.long)
    assert clip_loss(torch.ones(5, 3), torch.ones(5, 3), ids=same) == pytest.approx(log(5))
    assert clip_loss(x, x, 1e-9, ids=same) == pytest.approx(log(5))


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("ids", [None, IDS])
def test_scale_and_bias_learn(shape: tuple[int, ...], ids: torch.Tensor | None) -> None:
    x, y = one_width(12, 0)
    s = torch.full(shape, 5.0, dtype=torch.float64, requires_grad=True)
    b = torch.full(shape, -3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: clip_loss(x, y, s, ids=ids), (s,))
    assert torch.autograd.gradcheck(lambda s, b: siglip_loss(x, y, s, b, ids=ids), (s, b))
    assert clip_loss(x, y, s, ids=ids).shape == ()
    torch.testing.assert_close(clip_loss(x, y, s), clip_loss(x, y, 5.0))


def test_a_scale_of_another_dtype_does_not_change_the_result_dtype() -> None:
    x, y = (t.float() for t in one_width(12, 0))
    for dtype in (torch.float64, torch.bfloat16):
        scale = torch.tensor(8.0, dtype=dtype, requires_grad=True)
        value = clip_loss(x, y, scale)
        value.backward()
        assert (value.dtype, scale.grad.dtype) == (torch.float32, dtype)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0, 1e4])
@pytest.mark.parametrize("ids", [None, torch.zeros(6, dtype=torch.long)])
def test_value_and_gradient_are_finite(scale: float, ids: torch.Tensor | None) -> None:
    zero_row = normal(6, 4, seed=0, dtype=torch.float32)
    zero_row[2] = 0
    for x in (zero_row, torch.zeros(6, 4), torch.ones(6, 4), zero_row * 1e30, zero_row * 1e-30):
        leaf = x.clone().requires_grad_()
        value = clip_loss(leaf, x, scale, ids=ids) + siglip_loss(leaf, x, scale, -scale, ids=ids)
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()


def test_low_temperature_in_float32() -> None:
    """At a scale of 100 and beyond, a shift fixed in advance would underflow."""
    x, y = one_width(64, 0)
    for scale in (100.0, 1000.0):
        exact = oracles.clip_loss(x.numpy(), y.numpy(), scale)
        assert clip_loss(x.float(), y.float(), scale) == pytest.approx(exact, rel=1e-5)


def test_modules_take_the_scale_where_open_clip_passes_it() -> None:
    x, y = one_width(12, 0)
    assert ClipLoss()(x, y, 50.0) == clip_loss(x, y, logit_scale=50.0)
    expected = siglip_loss(x, y, logit_scale=50.0, logit_bias=-20.0)
    assert SigLipLoss()(x, y, 50.0, -20.0) == expected


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
def test_refuses_features_of_two_widths(loss) -> None:
    message = f"^{loss.__name__}: expected x and y with the same columns, got 3 and 4$"
    with pytest.raises(ValueError, match=message):
        loss(torch.ones(5, 3), torch.ones(5, 4))
