"""The Trainer's gradient is that of the loss as written, accumulated or not, labels or not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

pytest.importorskip("accelerate", reason="the Trainer needs it: pip install '.[integrations]'")

import hf_trainer
from hf_trainer import StructureTrainer, make_model, make_pairs, train

from structure_reg import clip_loss, structure_loss

TRAINED = {"logit_scale", "visual_projection.weight", "text_projection.weight"}


class Watched(StructureTrainer):
    """Keeps the gradients of the first optimiser step, before they are clipped."""

    gradients: list[dict[str, Tensor]]

    def training_step(self, model: nn.Module, *arguments: object, **options: object) -> Tensor:
        loss = super().training_step(model, *arguments, **options)
        of_step = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        type(self).gradients.append(of_step)
        return loss


class LeftToItself(Watched):
    loss_is_scaled_for_ga = None


def by_hand(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of one batch's loss, with the references from the encoders themselves."""
    with torch.no_grad():
        image = model.vision_model(batch["pixel_values"]).last_hidden_state[:, 0]
        text_batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
        tokens = model.text_model(**text_batch).last_hidden_state
        rows = zip(tokens, batch["attention_mask"], strict=True)
        text = torch.stack([token[mask == 1].mean(0) for token, mask in rows])
    out = model(**batch)
    loss = clip_loss(out.image_embeds, out.text_embeds, model.logit_scale.exp())
    loss = loss + 5 * structure_loss(image, out.image_embeds, temperature=0.2)
    loss = loss + 5 * structure_loss(text, out.text_embeds, temperature=0.2)
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("labels", [False, True])
def test_accumulation_is_the_mean_of_its_batches(
    labels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And without the one line it is their sum once there is a column of labels."""
    pairs = make_pairs()
    expected = [by_hand(make_model(), default_collate(pairs[i : i + 16])) for i in (0, 16)]
    if labels:
        monkeypatch.setattr(
            hf_trainer, "make_pairs", lambda: [pair | {"labels": torch.ones(1)} for pair in pairs]
        )
    for trainer, factor in ((Watched, 1), (LeftToItself, 2 if labels else 1)):
        trainer.gradients = []
        train(16, accumulate=2, trainer=trainer)
        assert set(trainer.gradients[1]) == TRAINED
        for name, found in trainer.gradients[1].items():
            mean = (expected[0][name] + expected[1][name]) / 2
            torch.testing.assert_close(found, factor * mean, atol=1e-6, rtol=1e-5)


def test_the_encoders_stay_what_they_are() -> None:
    before, after = make_model().state_dict(), train(32).state_dict()
    assert {name for name in before if not torch.equal(before[name], after[name])} == TRAINED


def test_freeze_holds_what_requires_grad_alone_does_not() -> None:
    """The text encoder's rows, twice, in a model that trains: dropout moves them by 30 %."""
    batch = default_collate(make_pairs())
    mask = batch["attention_mask"][..., None]
    frozen = make_model()
    thawed = type(frozen)(frozen.config).requires_grad_(False)
    moved = []
    for model in (frozen, thawed):
        model.train()
        x, y = (
            (model(**batch).text_model_output.last_hidden_state * mask).sum(1) / mask.sum(1)
            for _ in range(2)
        )
        moved.append(float((x - y).norm() / x.norm()))
    assert moved[0] == 0
    assert 0.25 < moved[1] < 0.35


def test_evaluation_uses_the_same_loss() -> None:
    model = make_model()
    batch = default_collate(make_pairs()[:8])
    trainer = StructureTrainer(model, hf_trainer.TrainingArguments(use_cpu=True, report_to=[]))
    loss, out = trainer.compute_loss(model, batch, return_outputs=True)
    assert torch.equal(loss, trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(8)))
    assert out.image_embeds.shape == (8, 16)


def test_the_script(printed) -> None:
    assert printed("hf_trainer").count("'loss'") == 4
