"""Few different rows: class names as captions, copies, one dimension, a constant side."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from torch import Tensor

import structure_reg as sr
from structure_reg.training.closed_form import are_classes
from structure_reg.training.copies import different_rows, ids_of_copies
from structure_reg.training.perplexity import at_perplexity, reachable_perplexity


def of_classes(C: int, n: int = 120, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images of both halves, the text of each class, and the class of each image."""
    label = torch.arange(n) % C
    images, text = normal(C, 12, seed=seed + 1), normal(C, 10, seed=seed + 2)
    one, other = (images[label] + normal(n, 12, seed=seed + i) for i in (3, 4))
    return one.float(), other.float(), text.float(), label


def accuracy(aligner: sr.Aligner, x: Tensor, text: Tensor, label: Tensor) -> float:
    z_x, z_y = aligner.transform_x(x), aligner.transform_y(text)
    return sr.zero_shot(z_x, z_y, label).accuracy[0].item()


class TestClassNames:
    @pytest.mark.parametrize("C", [2, 5, 8, 20])
    @pytest.mark.parametrize("with_ids", [True, False])
    def test_training_is_no_worse_than_the_closed_form(self, C: int, with_ids: bool) -> None:
        """On held-out images, in the mean over four draws."""
        closed, trained = [], []
        for seed in range(4):
            x, new_x, text, label = of_classes(C, seed=100 * seed)
            ids = label if with_ids else None
            for head, found in (("cca", closed), ("linear", trained)):
                aligner = sr.Aligner(head=head).fit(x, text[label], ids=ids)
                found.append(accuracy(aligner, new_x, text, label))
        assert sum(trained) >= sum(closed) - 1e-6

    @pytest.mark.parametrize(
        "options", [{}, {"keep": "frozen"}, {"batch_size": 20}, {"noise": 0.0}]
    )
    @pytest.mark.parametrize("side", [0, 1])
    def test_either_side_may_have_two_rows(self, side: int, options: dict[str, Any]) -> None:
        x, _, text, label = of_classes(2)
        pair = (x, text[label]) if side else (text[label], x)
        aligner = sr.Aligner(epochs=2, **options).fit(*pair)
        assert all(map(math.isfinite, aligner.history_["structure"]))
        assert math.isfinite(aligner.score(*pair))

    def test_equal_rows_share_an_id(self) -> None:
        x, _, text, label = of_classes(5)
        with_ids, without = (
            sr.Aligner(epochs=2).fit(x, text[label], ids=ids) for ids in (label, None)
        )
        assert with_ids.history_["contrastive"] == pytest.approx(without.history_["contrastive"])
        own = sr.Aligner(epochs=2).fit(x, text[label], ids=range(120))
        assert own.history_["contrastive"] != pytest.approx(without.history_["contrastive"])

    def test_layers_are_selected_with_two_classes(self) -> None:
        x, _, text, label = of_classes(2)
        aligner = sr.Aligner(head="cca", layers="select").fit([x, x * x], [text[label]], ids=label)
        assert aligner.layers_ in ((0, 0), (1, 0))


class TestCopies:
    def test_the_side_with_fewer_rows_decides(self) -> None:
        x = torch.tensor([[0.0], [1], [1], [2], [-0.0]])
        y = torch.tensor([[5.0], [6], [7], [7], [5]])
        assert ids_of_copies(y, x[:, [0, 0]]).tolist() == [0, 1, 1, 2, 0]
        assert ids_of_copies(x, torch.arange(5.0)[:, None]).tolist() == [0, 1, 1, 2, 0]
        assert ids_of_copies(torch.arange(5.0)[:, None], normal(5, 2, seed=0)) is None
        assert different_rows(x).tolist() == [0, 1, 3]

    def test_classes_are_few_ids_with_many_pairs(self) -> None:
        assert are_classes(torch.arange(600) % 20)
        assert are_classes(torch.arange(14) // 2)
        assert not are_classes(torch.arange(500) // 5)
        assert not are_classes(torch.arange(20) // 2)

    @pytest.mark.parametrize("copies", [2, 7, 30])
    def test_temperature_is_that_of_the_different_rows(self, copies: int) -> None:
        x = normal(20, 6, seed=0).float()
        once = at_perplexity("x", x, 4096).temperature
        assert at_perplexity("x", x.repeat(copies, 1), 4096).temperature == pytest.approx(
            once, rel=1e-3
        )
        entropy = sr.structure_diagnostics(x, x, temperature=once).frozen_perplexity
        assert entropy == pytest.approx(20 / 3, rel=1e-3)

    @pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 100, 200])
    def test_perplexity_of_different_rows(self, n: int) -> None:
        least = min(1.5, math.sqrt(n))
        expected = min(40, max(n / 3, least))
        assert reachable_perplexity("x", normal(n, 6, seed=0)) == pytest.approx(expected)

    @pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
    def test_perplexity_of_two_directions_lies_between_copies_and_rows(self, share: float) -> None:
        x = torch.ones(200, 1)
        x[: int(200 * share)] = -1
        p = np.array([share, 1 - share])
        copies = 200 * np.exp(p @ np.log(p))
        assert copies < reachable_perplexity("x", x) < 200
        assert at_perplexity("x", x, 4096).temperature > 0


class TestConstantSides:
    @pytest.mark.parametrize("head", ["linear", "cca", "ridge", "csa", "procrustes", "asif"])
    @pytest.mark.parametrize("options", [{}, {"structure_weight": 0.0}, {"standardise": False}])
    @pytest.mark.parametrize("side", ["x", "y"])
    def test_are_refused_by_name(self, head: str, options: dict[str, Any], side: str) -> None:
        pair = {"x": normal(20, 6, seed=0), "y": normal(20, 5, seed=1)}
        pair[side] = pair[side][:1].expand(20, -1)
        message = (
            rf"^Aligner.fit: expected {side} with rows that differ, got the same row 20 times$"
        )
        with pytest.raises(ValueError, match=message):
            sr.Aligner(head=head, epochs=1, **options).fit(**pair)

    def test_one_row_that_differs_is_enough(self) -> None:
        x, y = normal(1, 6, seed=0).repeat(20, 1), normal(20, 5, seed=1)
        x[3] += 1
        for head in ("linear", "cca", "ridge"):
            aligner = sr.Aligner(head=head, epochs=2).fit(x, y)
            assert aligner.transform_x(x).isfinite().all()

    def test_one_direction_has_no_neighbourhoods(self) -> None:
        x, y = normal(20, 1, seed=0).abs() + 0.1, normal(20, 5, seed=1)
        options = {"epochs": 2, "standardise": False, "keep": "frozen", "noise": 0.0}
        with pytest.raises(ValueError, match=r"^Aligner.fit: expected x with rows in diff"):
            sr.Aligner(**options).fit(x, y)
        sr.Aligner(**options, structure_weight=0.0).fit(x, y)
