"""Unpaired rows: the transport plan between them, held to that of the map fitted to the pairs."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from torch import Tensor, nn

import structure_reg as sr
from structure_reg._progress import Progress
from structure_reg.training import loop, rows
from structure_reg.training.batches import Batch, Pairs, Unpaired, sample
from structure_reg.training.objective import Objective
from structure_reg.training.options import checked_options
from structure_reg.training.start import starting_objective
from structure_reg.training.transport import DECAY, EPSILON, ITERATIONS, TEACHER_EPSILON

Aligner = partial(sr.Aligner, epochs=8, dim=16)
PLANS = {"epsilon": EPSILON, "teacher_epsilon": TEACHER_EPSILON, "iterations": ITERATIONS}


def related(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(99)
    maps = torch.randn(6, 20, generator=g), torch.randn(6, 14, generator=g)
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 6, generator=g)
    x, y = (shared @ W + torch.randn(n, W.shape[1], generator=g) for W in maps)
    return x, y


def of_kinds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Pairs of items that lie close to one of a hundred points in twelve dimensions."""
    g = torch.Generator().manual_seed(99)
    maps = torch.randn(12, 20, generator=g), torch.randn(12, 14, generator=g)
    kinds = torch.randn(100, 12, generator=g)
    g = torch.Generator().manual_seed(seed)
    shared = kinds[torch.randint(100, (n,), generator=g)] + 0.05 * torch.randn(n, 12, generator=g)
    x, y = (shared @ W + 0.7 * torch.randn(n, W.shape[1], generator=g) for W in maps)
    return x, y


X, Y = related(120, seed=0)
NEW_X, NEW_Y = related(60, seed=1)
NEW_OF_KINDS = of_kinds(100, seed=300)
U, V = related(50, seed=2)[0], related(40, seed=3)[1]  # of different items


def doubles(*tensors: Tensor) -> list[np.ndarray[Any, Any]]:
    return [z.detach().double().numpy() for z in tensors]


def teacher_rows() -> list[np.ndarray[Any, Any]]:
    """U and V under the CCA of the pairs."""
    found = sr.select_cca(X, Y, standardise=False)
    options = {"ridge": found.ridge, "power": found.power, "standardise": False}
    g_x, g_y = sr.fit_cca(X, Y, dim=14, **options)
    return doubles(g_x(U), g_y(V))


def objective_of(unpaired: Unpaired | None = (U, V), **options: Any) -> Objective:
    start, training = checked_options(Aligner(start="random", **options).get_params())
    torch.manual_seed(0)
    return starting_objective(Pairs(X, Y, None, unpaired), start, training.batch_size)


class TestTerm:
    @pytest.mark.parametrize("head", ["linear", "residual", "mlp", "sail"])
    def test_value_is_that_of_its_formula(self, head: str) -> None:
        options = {"head": head, "start": "random", "standardise": False, "lr": 1e-30}
        aligner = Aligner(**options, epochs=1).fit(X, Y, unpaired=(U, V))
        z_u, z_v = (f(z) for f, z in zip(aligner.heads_, (U, V), strict=True))
        expected = oracles.klot_loss(*doubles(z_u, z_v), *teacher_rows(), **PLANS)
        assert expected > 0.05
        assert aligner.history_["transport"] == pytest.approx([expected], rel=1e-4)

    @pytest.mark.parametrize("structure_weight", [0.0, 50.0])
    def test_gradient_is_that_of_its_formula(self, structure_weight: float) -> None:
        weight = 3.0
        objective = objective_of(unpaired_weight=weight, structure_weight=structure_weight)
        weights = [objective.head_x.weight, objective.head_y.weight]
        grads = [
            torch.autograd.grad(objective(Batch(X, Y, None, unpaired=rows_), 1.0).total, weights)
            for rows_ in ((U, V), None)
        ]
        # dL/dK = (P - P*) / ε with cosines K.
        heads = [each.double() for each in (objective.head_x, objective.head_y)]
        z_u, z_v = (f(z.double()) for f, z in zip(heads, (U, V), strict=True))
        P = oracles.entropic_plan(*doubles(z_u, z_v), EPSILON, ITERATIONS)
        Q = oracles.entropic_plan(*teacher_rows(), TEACHER_EPSILON, ITERATIONS)
        K = nn.functional.normalize(z_u) @ nn.functional.normalize(z_v).T
        slope = (torch.from_numpy(P - Q) * K).sum() / EPSILON
        expected = torch.autograd.grad(slope, [head.weight for head in heads])
        for with_term, plain, part in zip(*grads, expected, strict=True):
            difference = (with_term - plain).double()
            torch.testing.assert_close(difference, weight * part, rtol=1e-3, atol=1e-6)

    def test_total_is_the_sum_of_its_terms(self) -> None:
        objective = objective_of(unpaired_weight=3.0)
        terms = objective(Batch(X, Y, None, unpaired=(U, V)), 0.5)
        expected = terms.contrastive + 25 * terms.structure + 3 * terms.transport
        torch.testing.assert_close(terms.total, expected)

    def test_a_weight_brings_the_plan_to_that_of_the_teacher(self) -> None:
        terms = []
        for weight in (0.0, 100.0):
            options = {"start": "random", "unpaired_weight": weight, "standardise": False}
            aligner = sr.Aligner(**options, dim=16, structure_weight=0.0, epochs=40, lr=1e-2)
            aligner.fit(X, Y, unpaired=(U, V))
            z = doubles(aligner.transform_x(U), aligner.transform_y(V))
            terms.append(oracles.klot_loss(*z, *teacher_rows(), **PLANS))
        assert terms[1] < 0.5 * terms[0]

    @pytest.mark.parametrize("head", ["linear", "residual", "mlp"])
    def test_a_teacher_is_a_moving_average_of_the_heads(self, head: str) -> None:
        start, training = checked_options(Aligner(head=head, epochs=2).get_params())
        pairs = Pairs(X, Y, None, (U, V))
        objective = starting_objective(pairs, start, training.batch_size)
        term = objective.transport
        assert term is not None
        seen = [[p.detach().clone() for p in objective.head_x.parameters()]]
        stepped, follow = objective.head_x, objective.follow

        def note() -> None:
            seen.append([p.detach().clone() for p in stepped.parameters()])
            follow()

        objective.follow = note  # type: ignore[method-assign]
        loop.train(
            objective, pairs, training, None, Progress("test", {loop.TRAINING: 0}, show=False)
        )
        for own, first, second, third in zip(term.g_x.parameters(), *seen, strict=True):
            expected = DECAY * (DECAY * first + (1 - DECAY) * second) + (1 - DECAY) * third
            torch.testing.assert_close(own, expected)
            assert not torch.equal(first, third)

    def test_a_teacher_of_random_heads_stays(self) -> None:
        objective = objective_of()
        term = objective.transport
        assert term is not None
        before = copy.deepcopy(term.state_dict())
        objective.follow()
        assert all(torch.equal(before[name], p) for name, p in term.state_dict().items())

    def test_weight_zero_is_without_it(self) -> None:
        assert objective_of(unpaired_weight=0.0).transport is None
        history = Aligner(unpaired_weight=0.0).fit(X, Y, unpaired=(U, V)).history_
        assert history["transport"] == [0.0] * 8

    @pytest.mark.parametrize("unpaired", [(U[:1], V), (U, V[:1])])
    def test_a_single_row_has_one_plan(self, unpaired: Unpaired) -> None:
        assert objective_of(unpaired).transport is None

    def test_rows_with_their_own_term_are_no_anchors(self) -> None:
        batch = Batch(X, Y, None, unpaired=(U, V))
        with_rows, without = (objective_of()(b, 1.0) for b in (batch, Batch(X, Y, None)))
        assert torch.equal(with_rows.structure, without.structure)
        anchored = objective_of(unpaired_weight=0.0)(batch, 1.0)
        assert not torch.equal(anchored.structure, without.structure)

    def test_weights_of_a_teacher_stay(self) -> None:
        objective = objective_of()
        assert objective.transport is not None
        assert not any(weight.requires_grad for weight in objective.transport.parameters())


class TestRows:
    @pytest.mark.parametrize("side", [0, 1])
    def test_their_order_does_not_matter(self, side: int) -> None:
        flipped = [U, V]
        flipped[side] = flipped[side].flip(0)
        z, same = (
            Aligner(noise=0.0).fit(X, Y, unpaired=of).transform_x(NEW_X) for of in ((U, V), flipped)
        )
        torch.testing.assert_close(same, z, rtol=0, atol=1e-4)

    def test_few_come_whole_and_more_are_drawn(self) -> None:
        generator = torch.Generator().manual_seed(0)
        first, second = (sample((U, V), 45, generator) for _ in range(2))
        assert first is not None
        assert second is not None
        assert not torch.equal(first[0], second[0])
        distinct = torch.cat([U, first[0]]).unique(dim=0)
        assert (len(first[0]), len(distinct)) == (45, 50)
        assert torch.equal(first[1], V)

    @pytest.mark.parametrize(("most", "batch_size"), [(30, 4096), (4096, 30)])
    def test_steps_see_as_many_as_they_can_afford(
        self, monkeypatch: pytest.MonkeyPatch, most: int, batch_size: int
    ) -> None:
        monkeypatch.setattr(loop, "TRANSPORTED", most)
        start, training = checked_options(Aligner(batch_size=batch_size).get_params())
        pairs = Pairs(X, Y, None, (U, V))
        objective = starting_objective(pairs, start, training.batch_size)
        stream = loop.training_batches(objective, pairs, training)
        for batch in (next(stream), next(stream)):
            assert batch.unpaired is not None
            assert [len(z) for z in batch.unpaired] == [30, 30]

    def test_they_may_be_streamed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        expected = Aligner().fit(X, Y, unpaired=(U, V)).transform_x(NEW_X)
        monkeypatch.setattr(rows, "BUDGET", 0)
        read = Aligner().fit(X, Y, unpaired=(U.numpy(), V.numpy())).transform_x(NEW_X)
        assert torch.equal(read, expected)

    def test_of_different_layers_are_refused(self) -> None:
        with pytest.raises(ValueError, match="20 columns it was fitted on, got 3"):
            Aligner().fit(X, Y, unpaired=(U[:, :3], V))


class TestAligner:
    def test_unpaired_rows_pay(self) -> None:
        """With few pairs of items that come in kinds, and unpaired rows of other items."""
        gains = []
        for seed in range(2):
            x, y = of_kinds(16, seed)
            unpaired = of_kinds(150, 100 + seed)[0], of_kinds(150, 200 + seed)[1]
            alone, paid = (
                sr.Aligner(epochs=40, lr=1e-3).fit(x, y, unpaired=rows_).score(*NEW_OF_KINDS)
                for rows_ in (None, unpaired)
            )
            gains.append(paid / alone - 1)
        assert sum(gains) / 2 > 0.01

    def test_the_weight_comes_back_from_a_file(self, tmp_path: Path) -> None:
        aligner = Aligner(unpaired_weight=2.0).fit(X, Y, unpaired=(U, V))
        aligner.save(tmp_path / "aligner.safetensors")
        loaded = sr.Aligner.load(tmp_path / "aligner.safetensors")
        assert loaded.unpaired_weight == 2.0
        assert loaded.history_ == aligner.history_
        assert torch.equal(loaded.transform_x(NEW_X), aligner.transform_x(NEW_X))

    def test_files_and_recipes_of_before_are_without(self) -> None:
        file = Path(__file__).parent / "files" / "aligner_0.1.0.safetensors"
        assert sr.Aligner.load(file).unpaired_weight == 0.0
        assert sr.released_aligner(100).unpaired_weight == 0.0

    @pytest.mark.parametrize("weight", [1e-300, 1e6])
    def test_weights_at_their_bounds(self, weight: float) -> None:
        aligner = Aligner(unpaired_weight=weight, epochs=2).fit(X, Y, unpaired=(U[:2], V[:2]))
        assert aligner.transform_x(NEW_X).isfinite().all()

    def test_closed_forms_ignore_them(self) -> None:
        alone = Aligner(head="cca").fit(X, Y).transform_x(NEW_X)
        beside = Aligner(head="cca").fit(X, Y, unpaired=(U, V)).transform_x(NEW_X)
        assert torch.equal(beside, alone)

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [
            (-1.0, ValueError, "unpaired_weight >= 0"),
            (float("nan"), ValueError, "unpaired_weight >= 0"),
            (None, TypeError, "unpaired_weight to be a number"),
            ("1", TypeError, "unpaired_weight to be a number"),
        ],
    )
    def test_other_weights_are_refused(
        self, value: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=f"^Aligner: expected {message}"):
            Aligner(unpaired_weight=value).fit(X, Y)
