"""The loss in open_clip: its call convention here, its own `train_one_epoch` where it is installed.

torchvision's wheels load only beside the PyTorch build they were made for. Where that is another
one, its compiled operators are left undeclared, which CLIP does not use; all else is torchvision.
"""

from __future__ import annotations

import logging
from unittest.mock import patch

import open_clip_epoch
import pytest
import torch
from open_clip_epoch import PAIRS, WithStructure, carry_references, make_model, train
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from structure_reg import ClipLoss, StructureLoss, clip_loss, structure_loss


def loss(contrastive: nn.Module | None = None, weight: float = 5.0) -> WithStructure:
    return WithStructure(contrastive or ClipLoss(), StructureLoss(temperature=0.2), weight)


# What train_one_epoch does with the output of a model: loss(**model_out, output_dict=True).
@pytest.fixture
def model_out() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {
        "image_features": normalize(torch.randn(16, 8, generator=g), dim=-1).requires_grad_(),
        "text_features": normalize(torch.randn(16, 8, generator=g), dim=-1).requires_grad_(),
        "logit_scale": torch.tensor(14.0, requires_grad=True),
        "image_reference": torch.randn(16, 32, generator=g),
        "text_reference": torch.randn(16, 24, generator=g),
    }


def test_the_call_convention(model_out: dict[str, Tensor]) -> None:
    terms = loss()(**model_out, output_dict=True)
    assert list(terms) == ["contrastive_loss", "structure_loss"]
    total = sum(terms.values())  # open_clip 3
    assert torch.equal(total, sum(v for name, v in terms.items() if name.endswith("_loss")))  # 4
    assert torch.equal(total, loss()(**model_out))
    x, y, s, r, t = model_out.values()
    options = {"temperature": 0.2}
    by_hand = 5 * (structure_loss(r, x, **options) + structure_loss(t, y, **options))
    assert torch.equal(terms["contrastive_loss"], clip_loss(x, y, s))
    assert torch.equal(terms["structure_loss"], by_hand)


def test_the_contrastive_term_is_that_of_open_clip(model_out: dict[str, Tensor]) -> None:
    x, y, s, *_ = model_out.values()
    labels = torch.arange(16)
    theirs = (cross_entropy(s * x @ y.T, labels) + cross_entropy(s * y @ x.T, labels)) / 2
    ours = loss()(**model_out, output_dict=True)["contrastive_loss"]
    torch.testing.assert_close(ours, theirs)
    # Their gradient by a feature's length, which is 1 already, is the only one that differs.
    inputs = x, y, s
    for z, a, b in zip(
        inputs, torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True
    ):
        along = (b * z).sum(-1, keepdim=True) * z if z.ndim else 0
        torch.testing.assert_close(a, b - along, atol=1e-6, rtol=1e-5)


def test_it_keeps_no_state() -> None:
    assert not loss().state_dict()


@pytest.fixture(scope="module")
def open_clip():
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with patch("torch.library.register_fake", lambda _name: lambda function: function):
            pytest.importorskip(
                "torchvision", reason="open_clip needs torchvision: pip install '.[open-clip]'"
            )
    return pytest.importorskip("open_clip", reason="pip install '.[open-clip]'")


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


@pytest.mark.usefixtures("open_clip")
def test_an_epoch_trains_the_projections_alone_and_logs_both_terms(caplog) -> None:
    caplog.set_level(logging.INFO)
    before, after = parameters(make_model()), parameters(train(loss(), batch=32))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"visual.proj", "text_projection", "logit_scale"}
    assert "Contrastive_loss" in caplog.text
    assert "Structure_loss" in caplog.text


def test_ours_trains_as_theirs_does(open_clip) -> None:
    ours = parameters(train(loss(ClipLoss()), batch=32))
    theirs = parameters(train(loss(open_clip.ClipLoss()), batch=32))
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-6)


@pytest.mark.usefixtures("open_clip")
def test_accumulation_is_the_whole_batch() -> None:
    start = parameters(make_model())
    whole = parameters(train(loss(), batch=PAIRS))
    parts = parameters(train(loss(), batch=PAIRS // 4, accumulate=4))
    for name in ("visual.proj", "text_projection"):
        torch.testing.assert_close(parts[name], whole[name], atol=1e-6, rtol=1e-6)
    # open_clip's own: the scale meets every part's backward with the whole loss.
    moved = [model["logit_scale"] - start["logit_scale"] for model in (parts, whole)]
    torch.testing.assert_close(moved[0], 4 * moved[1], atol=1e-6, rtol=1e-3)


@pytest.mark.usefixtures("open_clip")
def test_the_references_are_what_the_projections_get() -> None:
    model = make_model()
    carry_references(model)
    images, texts = torch.randn(6, 3, 16, 16), torch.randint(1, 63, (6, 8))
    texts[:3, 5], texts[:3, 6:], texts[3:, 7] = 63, 0, 63  # the end, as argmax finds it
    out = model(images, texts)
    for side, projection in (("image", model.visual.proj), ("text", model.text_projection)):
        features = normalize(out[f"{side}_reference"] @ projection, dim=-1)
        torch.testing.assert_close(features, out[f"{side}_features"])
        assert not out[f"{side}_reference"].requires_grad


@pytest.mark.usefixtures("open_clip")
def test_the_script(printed, caplog) -> None:
    caplog.set_level(logging.INFO)
    printed(open_clip_epoch.__name__)
    assert caplog.text.count("Structure_loss") == 6
