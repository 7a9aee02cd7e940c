"""Zero-shot classification against every order of ties, and averaging of prompts after the head."""

from __future__ import annotations

import numpy as np
import oracles_evaluation
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from structure_reg import ZeroShot, class_embeddings, tile_budget, zero_shot

KS = (1, 2, 5)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 12), c=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_is_the_mean_over_all_orders(n: int, c: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, classes = (torch.randint(-1, 2, (rows, 2), generator=generator).double() for rows in (n, c))
    labels = torch.randint(c, (n,), generator=generator)
    result = zero_shot(x, classes, labels, ks=KS)
    expected = oracles_evaluation.zero_shot(x.numpy(), classes.numpy(), labels.numpy(), KS)
    for ours, true in zip(result[1:], expected, strict=True):
        np.testing.assert_allclose(ours, true, rtol=1e-9, atol=1e-12)
    with tile_budget(1e-9):
        for ours, again in zip(result, zero_shot(x, classes, labels, ks=KS), strict=True):
            assert np.allclose(ours, again)


def test_a_collapsed_head_scores_chance() -> None:
    labels = torch.tensor([0] * 30 + [1] * 6 + [3] * 4)
    result = zero_shot(normal(40, 8, seed=0), torch.ones(8, 8), labels)
    assert isinstance(result, ZeroShot)
    assert result.accuracy.tolist() == pytest.approx([1 / 8, 5 / 8])
    assert result.mean_per_class.tolist() == pytest.approx([1 / 8, 5 / 8])


def test_mean_per_class_weighs_classes_equally() -> None:
    x = torch.tensor([[1.0, 0.0]] * 9 + [[0.9, 0.1]])
    result = zero_shot(x, torch.eye(2), torch.tensor([0] * 9 + [1]), ks=(1,))
    assert result.accuracy.tolist() == pytest.approx([0.9])
    assert result.mean_per_class.tolist() == pytest.approx([0.5])
    assert result.macro_f1.item() == pytest.approx((18 / 19 + 0) / 2)


def test_prompts_are_averaged_as_directions_after_the_head() -> None:
    prompts = normal(5, 3, 6, seed=0)
    head = nn.Linear(6, 4, dtype=torch.float64)
    found = class_embeddings(prompts, head=head)
    for c in range(5):
        z = head(prompts[c]).detach().numpy()
        mean = (z / np.linalg.norm(z, axis=1, keepdims=True)).mean(0)
        np.testing.assert_allclose(found[c], mean / np.linalg.norm(mean), rtol=1e-12)
    assert not found.requires_grad
    torch.testing.assert_close(class_embeddings(head(prompts)), found)
    assert class_embeddings(prompts.half()).dtype == torch.float32


def test_the_order_of_templates_and_their_lengths_do_not_matter() -> None:
    prompts = normal(5, 3, 6, seed=0)
    found = class_embeddings(prompts)
    torch.testing.assert_close(class_embeddings(prompts[:, [2, 0, 1]]), found)
    torch.testing.assert_close(class_embeddings(prompts * normal(5, 3, 1, seed=1).abs()), found)


def test_nan_in_nan_out() -> None:
    x, classes, labels = normal(12, 4, seed=0), normal(3, 4, seed=1), torch.arange(12) % 3
    for tensor in (x, classes):
        kept = tensor[1, 0].clone()
        tensor[1, 0] = torch.nan
        assert zero_shot(x, classes, labels).accuracy.isnan().all()
        assert class_embeddings(tensor[None]).isnan().any()
        tensor[1, 0] = kept


def test_prints_as_a_table() -> None:
    lines = str(zero_shot(torch.eye(6), torch.eye(6), torch.arange(6))).splitlines()
    assert [line.split() for line in lines] == [
        ["accuracy", "mean", "per", "class"],
        ["top-1", "1.000", "1.000"],
        ["top-5", "1.000", "1.000"],
        ["macro", "F1", "1.000"],
    ]


X, LABELS = torch.ones(4, 3), torch.zeros(4, dtype=torch.long)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.long(), X, LABELS), TypeError, "x in float16"),
        ((X, X[:, :2], LABELS), ValueError, "x and classes with the same columns, got 3 and 2"),
        ((X, X.to("meta"), LABELS), ValueError, "x and classes on one device"),
        ((X, X, None), TypeError, "labels to be a list, an array or a tensor, got N"),
        ((X, X, LABELS[:2]), ValueError, r"labels of shape \(4,\), got \(2,\)"),
        ((X, X, X[:, 0]), TypeError, "labels of an integer dtype"),
        ((X, X, LABELS, 5), TypeError, "ks to be a list of integers"),
    ],
)
def test_refuses(arguments: tuple[object, ...], error: type[Exception], message: str) -> None:
    tensors, ks = arguments[:3], arguments[3:] or ((1,),)
    with pytest.raises(error, match=f"^zero_shot: expected {message}"):
        zero_shot(*tensors, ks=ks[0])


def test_refuses_prompts_and_heads_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^class_embeddings: expected prompts of shape \(cl"):
        class_embeddings(X)
    with pytest.raises(TypeError, match=r"^class_embeddings: expected head to be callable, got i"):
        class_embeddings(X[None], head=3)
    with pytest.raises(ValueError, match=r"^class_embeddings: expected prompts and head\(prom"):
        class_embeddings(X[None], head=lambda z: z[:2])
