"""The wrapper in sentence-transformers' own trainer: both terms, both papers, a frozen encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("sentence_transformers", reason="pip install '.[integrations]'")
pytest.importorskip("datasets", reason="the trainer needs it: pip install '.[integrations]'")

from sentence_transformers_loss import WithStructure, make_model, make_pairs, train

from structure_reg import structure_loss


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory):
    return train(tmp_path_factory.mktemp("model"))


def test_both_terms_are_logged_and_make_the_loss(trainer) -> None:
    logs = [log for log in trainer.state.log_history if "structure" in log]
    assert len(logs) == 4
    for log in logs:
        assert log["loss"] == pytest.approx(log["contrastive"] + log["structure"], abs=2e-4)
        assert log["structure"] > 0


def test_the_dense_alone_is_trained(trainer, tmp_path: Path) -> None:
    before, after = make_model(tmp_path).state_dict(), trainer.model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"2.linear.weight", "2.linear.bias"}


def test_the_reference_is_the_pooled_row(trainer) -> None:
    model, loss = trainer.model, trainer.loss
    model.eval()
    pairs = make_pairs(8)
    columns = [model.preprocess(pairs[name]) for name in ("anchor", "positive")]
    terms = loss(columns)
    expected = 0.0
    for name in ("anchor", "positive"):
        features = model.preprocess(pairs[name])
        pooled = model[1](model[0](features))["sentence_embedding"].clone()
        embedding = torch.as_tensor(model.encode(pairs[name]))
        expected += 5 * structure_loss(pooled, embedding, temperature=0.2)
    torch.testing.assert_close(terms["structure"].detach(), expected, atol=1e-5, rtol=1e-5)


def test_the_model_card_names_both_losses(trainer) -> None:
    assert isinstance(trainer.loss, WithStructure)
    config = {"loss": "MultipleNegativesRankingLoss", "weight": 5.0, "temperature": 0.2}
    assert trainer.loss.get_config_dict() == config
    card = trainer.model.model_card_data
    assert set(card.citations) >= {"WithStructure", "MultipleNegativesRankingLoss"}
    assert "2506.16895" in card.citations["WithStructure"]


def test_the_script(printed) -> None:
    assert "2506.16895" in printed("sentence_transformers_loss")
