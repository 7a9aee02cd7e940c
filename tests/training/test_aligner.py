"""From features to an aligned model: what goes in, what comes out, and what happens between."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import structure_reg as sr
from structure_reg.training.augmentation import add_noise, fusemix
from structure_reg.training.batches import Batch
from structure_reg.training.objective import Objective
from structure_reg.training.schedules import constant, cosine_decay, linear_warmup
from structure_reg.training.trained_heads import start_linear

FILES = Path(__file__).parent / "files"
TRAINED = ("linear", "residual", "mlp", "sail")
CLOSED = ("ridge", "cca", "csa", "procrustes", "asif")
Aligner = partial(sr.Aligner, epochs=8, dim=16)


def related(n: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(99)
    maps = torch.randn(6, 20, generator=g), torch.randn(6, 14, generator=g)
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, 6, generator=g)
    x, y = (shared @ W + torch.randn(n, W.shape[1], generator=g) for W in maps)
    return x, y


X, Y = related()
NEW_X, NEW_Y = related(60, seed=1)


@pytest.mark.parametrize("head", [*TRAINED, *CLOSED])
def test_every_head_aligns_and_comes_back_from_a_file(head: str, tmp_path: Path) -> None:
    aligner = Aligner(head=head, epochs=60, lr=1e-3).fit(X, Y)
    chance = np.mean([1, 5, 10]) / 60
    assert aligner.score(NEW_X, NEW_Y) > 3 * chance
    aligner.save(tmp_path / "aligner.safetensors")
    loaded = sr.Aligner.load(tmp_path / "aligner.safetensors")
    assert torch.equal(loaded.transform_x(NEW_X), aligner.transform_x(NEW_X))
    assert torch.equal(loaded.transform_y(NEW_Y), aligner.transform_y(NEW_Y))
    assert (loaded.head, loaded.layers_, loaded.dim) == (head, (0, 0), 16)
    assert loaded.history_ == aligner.history_


def test_rows_are_of_unit_length_and_score_is_retrieval() -> None:
    aligner = Aligner().fit(X, Y)
    z_x, z_y = aligner.transform_x(NEW_X), aligner.transform_y(NEW_Y)
    torch.testing.assert_close(z_x.norm(dim=1), torch.ones(60))
    assert aligner.score(NEW_X, NEW_Y) == sr.retrieval(z_x, z_y).mean_recall.item()


class TestWhatGoesIn:
    def test_arrays_tensors_lists_and_mappings_are_the_same(self) -> None:
        plain = Aligner(layers="last").fit(X, Y).transform_x(NEW_X)
        from_arrays = Aligner(layers="last").fit(X.double().numpy(), Y.double().numpy())
        array = from_arrays.transform_x(NEW_X.numpy())
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, plain.numpy())
        noise = torch.randn_like(X)
        for several in ([noise, X], {"early": noise, "late": X}):
            aligner = Aligner(layers="last").fit(several, Y)
            torch.testing.assert_close(aligner.transform_x(NEW_X), plain, rtol=0, atol=0)

    def test_select_finds_the_related_layers(self) -> None:
        xs = {"a": torch.randn_like(X), "b": X, "c": torch.randn_like(X)}
        aligner = Aligner().fit(xs, [Y, torch.randn_like(Y)])
        assert aligner.layers_ == ("b", 0)
        assert aligner.selection_ is not None
        assert aligner.selection_.x_name == "b"
        z = aligner.transform_x({"a": NEW_X * 0, "b": NEW_X, "c": NEW_X * 0})
        assert torch.equal(z, aligner.transform_x(NEW_X))

    @pytest.mark.parametrize("layers", [("b", 0), (1, -2), ("b", -2)])
    def test_layers_by_name_or_position(self, layers: tuple[Any, Any]) -> None:
        xs, ys = {"a": torch.randn_like(X), "b": X}, [Y, torch.randn_like(Y)]
        z = Aligner(layers=layers).fit(xs, ys).transform_x({"a": NEW_X * 0, "b": NEW_X})
        assert torch.equal(z, Aligner().fit(X, Y).transform_x(NEW_X))

    def test_ids_of_any_kind(self) -> None:
        numbers = torch.arange(120) // 2
        by = [
            Aligner().fit(X, Y, ids=ids).transform_x(NEW_X)
            for ids in (numbers, numbers.numpy(), [f"text {i}" for i in numbers.tolist()])
        ]
        assert torch.equal(by[0], by[1])
        assert torch.equal(by[0], by[2])
        assert not torch.equal(by[0], Aligner().fit(X, Y).transform_x(NEW_X))

    def test_units_of_a_column_do_not_matter(self) -> None:
        units, origin = torch.logspace(-2, 2, 20), torch.linspace(-5, 5, 20)
        x, new_x = X * units + origin, NEW_X * units + origin
        z = Aligner().fit(x, Y).transform_x(new_x)
        torch.testing.assert_close(z, Aligner().fit(X, Y).transform_x(NEW_X), rtol=0, atol=2e-2)
        z = Aligner(standardise=False).fit(x, Y).transform_x(new_x)
        plain = Aligner(standardise=False).fit(X, Y).transform_x(NEW_X)
        assert (z @ z.T - plain @ plain.T).abs().max() > 0.1

    def test_a_constant_column_changes_nothing(self) -> None:
        x = torch.cat([X, torch.full((120, 1), 7.0)], 1)
        aligner = Aligner().fit(x, Y)
        one, other = (
            aligner.transform_x(torch.cat([NEW_X, torch.full((60, 1), c)], 1)) for c in (7.0, -9.0)
        )
        assert torch.equal(one, other)
        assert one.isfinite().all()

    def test_inputs_are_left_as_they_were(self) -> None:
        x, y = X.clone(), Y.clone()
        Aligner(standardise=False).fit(x, y)
        assert torch.equal(x, X)
        assert torch.equal(y, Y)


class TestTraining:
    def test_first_step_is_the_objective_as_it_is_written(self) -> None:
        weight, tau = 3.0, 0.3
        structure = sr.StructureLoss(temperature=tau, levels=2)
        options = {"structure": structure, "structure_weight": weight, "standardise": False}
        history = Aligner(**options, epochs=1, keep="frozen", noise=0.0).fit(X, Y).history_
        found = sr.select_cca(X, Y, standardise=False)
        z_x, z_y = (
            head(z)
            for head, z in zip(
                sr.fit_cca(X, Y, dim=14, ridge=found.ridge, power=found.power, standardise=False),
                (X, Y),
                strict=True,
            )
        )
        s = found.logit_scale
        z_x, z_y = z_x.detach(), z_y.detach()
        L = sr.clip_loss(z_x, z_y, s)
        R = sum(sr.structure_loss(a, z, temperature=tau, levels=2) for a, z in ((X, z_x), (Y, z_y)))
        assert history["logit_scale"] == pytest.approx([s])
        assert history["contrastive"] == pytest.approx([L.item()], rel=1e-4)
        assert history["structure"] == pytest.approx([float(R) / 2], rel=1e-4)
        assert history["weight"] == [weight]

    def test_temperature_is_that_of_a_perplexity(self) -> None:
        options = {"epochs": 1, "standardise": False, "keep": "frozen", "noise": 0.0}
        history = Aligner(**options).fit(X, Y).history_
        taus = [sr.temperature_for_perplexity(z, 40.0) for z in (X, Y)]
        given = [
            Aligner(**options, structure=sr.StructureLoss(temperature=tau))
            .fit(X, Y)
            .history_["structure"][0]
            for tau in taus
        ]
        assert min(given) <= history["structure"][0] <= max(given)

    def test_structure_keeps_the_neighbourhoods(self) -> None:
        def kept(weight: float) -> float:
            aligner = Aligner(structure_weight=weight, keep="frozen", epochs=100, lr=3e-3).fit(X, Y)
            z = aligner.transform_x(X)
            return sr.neighbourhood_overlap(X, z, k=10).item()

        assert kept(200.0) > kept(0.0) + 0.05

    def test_shared_neighbourhoods_are_those_of_the_start(self) -> None:
        """So the term is nothing at first, and grows as training leaves them."""
        history = Aligner(epochs=30).fit(X, Y).history_
        assert history["structure"][0] == pytest.approx(0, abs=1e-6)
        assert history["structure"][-1] > 1e-5
        plain = Aligner(structure_weight=0.0, epochs=30, lr=3e-3).fit(X, Y)
        aligner = Aligner(epochs=30, lr=3e-3).fit(X, Y)
        start = Aligner(structure_weight=0.0, epochs=1, lr=1e-12).fit(X, Y).transform_x(X)
        moved, kept = (
            sr.structure_loss(start, a.transform_x(X), temperature=0.1) for a in (plain, aligner)
        )
        assert kept < 0.5 * moved

    def test_weight_zero_is_plain(self) -> None:
        torch.manual_seed(0)
        history = Aligner(structure_weight=0.0).fit(X, Y).history_
        assert history["structure"] == [0.0] * 8
        spy = Spy()
        plain = Aligner(structure_weight=0.0, structure=spy).fit(X, Y)
        assert spy.calls == 0
        without_noise = Aligner(structure_weight=0.0, noise=0.0).fit(X, Y)
        assert torch.equal(plain.transform_x(NEW_X), without_noise.transform_x(NEW_X))

    @pytest.mark.parametrize("head", TRAINED)
    def test_a_seed_is_a_result_and_the_global_generator_stays(self, head: str) -> None:
        options = {"head": head, "start": "random", "fusemix": 1.0, "batch_size": 50}
        torch.manual_seed(1)
        first = Aligner(**options, seed=5).fit(X, Y).transform_x(NEW_X)
        torch.manual_seed(2)
        state = torch.get_rng_state()
        again = Aligner(**options, seed=5).fit(X, Y).transform_x(NEW_X)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(first, again)
        assert not torch.equal(first, Aligner(**options, seed=6).fit(X, Y).transform_x(NEW_X))

    def test_the_default_trains_only_where_something_is_gained(self) -> None:
        start = sr.Aligner(dim=16).fit(X, Y)
        assert start.history_ == {} or not start.history_.get("contrastive")
        assert start.stopped_ == "after 0 steps"
        same = sr.Aligner(dim=16, epochs=0).fit(X, Y)
        assert torch.equal(same.transform_x(X), start.transform_x(X))
        cca = sr.Aligner(dim=16, head="cca").fit(X, Y)
        torch.testing.assert_close(cca.transform_x(X), start.transform_x(X), rtol=0, atol=1e-5)
        for options in ({"noise": 0.0}, {"head": "mlp"}, {"epochs": 2}, {"structure_weight": 9.0}):
            steps = {"max_steps": 2, "dim": 16} | options
            assert len(sr.Aligner(**steps).fit(X, Y).history_["contrastive"]) == 2
        others = {"validation": (X, Y)}, {"unpaired": (X, Y)}
        for rows in others:
            assert sr.Aligner(dim=16).fit(X[:40], Y[:40], **rows).history_["contrastive"]

    def test_batches_are_full_and_epochs_are_passes(self) -> None:
        spy = Spy()
        history = Aligner(structure=spy, batch_size=50, epochs=3).fit(X, Y).history_
        assert len(history["contrastive"]) == 3 * 2
        assert spy.rows == {50}

    @pytest.mark.parametrize("batch_size", [20, 4096])
    def test_warmup_is_a_share_of_training(self, batch_size: int) -> None:
        history = Aligner(warmup=0.5, epochs=10, batch_size=batch_size).fit(X, Y).history_
        weight = history["weight"]
        assert weight[0] == 0
        assert weight[len(weight) // 4] == pytest.approx(25, rel=0.2)
        assert weight[len(weight) // 2 :] == [50.0] * (len(weight) - len(weight) // 2)

    def test_validation_ends_at_the_best_step(self) -> None:
        options = {"structure_weight": 0.0, "lr": 0.05, "epochs": 100, "patience": 1.0}
        aligner = Aligner(**options).fit(X, Y, validation=(NEW_X, NEW_Y))
        scores = aligner.history_["validation"]
        assert aligner.history_["validation_step"] == list(range(0, 101, 4))
        assert aligner.score(NEW_X, NEW_Y) == max(scores)
        assert max(scores) > scores[-1]

    def test_patience_stops(self) -> None:
        options = {"structure_weight": 0.0, "lr": 0.05, "epochs": 100}
        found = Aligner(**options, patience=0.1).fit(X, Y, validation=(NEW_X, NEW_Y)).history_
        best = int(np.argmax(found["validation"]))
        stopped, since = found["validation_step"][-1], found["validation_step"][best]
        assert 10 < stopped - since <= 14
        assert len(found["contrastive"]) == stopped

    def test_validation_knows_ids(self) -> None:
        x, y = NEW_X.repeat(2, 1), NEW_Y.repeat(2, 1)
        ids = list(range(60)) * 2
        with_ids = Aligner(epochs=1).fit(X, Y, validation=(x, y, ids)).history_["validation"][0]
        without = Aligner(epochs=1).fit(X, Y, validation=(x, y)).history_["validation"][0]
        assert with_ids > without

    @pytest.mark.parametrize("head", ["linear", "residual", "mlp"])
    def test_starts_at_the_map(self, head: str) -> None:
        kinds: dict[str, Callable[..., nn.Module]] = {
            "linear": sr.LinearHead,
            "residual": sr.ResidualHead,
            "mlp": partial(sr.MlpHead, hidden_features=32),
        }
        W, _ = sr.fit_cca(X - X.mean(0), Y, dim=10)
        module = kinds[head](20, 10) if head != "mlp" else sr.MlpHead(20, 10, hidden_features=20)
        start_linear(module, W)
        a, b = (torch.nn.functional.normalize(m(NEW_X)) for m in (module, W))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)

    def test_siglip_has_its_bias(self) -> None:
        aligner = Aligner(contrastive=sr.SigLipLoss(), epochs=30).fit(X, Y)
        assert aligner.score(NEW_X, NEW_Y) > 0.3

    def test_modules_and_makers_of_heads(self) -> None:
        pair = nn.Linear(20, 8), nn.Linear(14, 8)
        before = pair[0].weight.clone()
        aligner = Aligner(head=pair).fit(X, Y)
        assert aligner.heads_ == pair
        assert not torch.equal(pair[0].weight, before)
        assert not pair[0].training
        made = Aligner(head=partial(sr.MlpHead, dropout=0.5)).fit(X, Y)
        assert torch.equal(made.transform_x(NEW_X), made.transform_x(NEW_X))

    def test_find_sets_a_rate_and_leaves_the_start(self) -> None:
        found = Aligner(lr="find", epochs=1, noise=0.0).fit(X, Y).history_
        given = Aligner(lr=1e-3, epochs=1, noise=0.0).fit(X, Y).history_
        assert found["contrastive"] == pytest.approx(given["contrastive"])
        assert Aligner(lr="find", start="random", epochs=60).fit(X, Y).score(NEW_X, NEW_Y) > 0.3

    def test_logit_scale_is_fixed_or_learned(self) -> None:
        fixed = Aligner(logit_scale=30.0).fit(X, Y).history_["logit_scale"]
        assert fixed == pytest.approx([30.0] * 8)
        learned = Aligner(lr=0.01).fit(X, Y).history_["logit_scale"]
        assert len(set(learned)) > 1


class Spy(nn.Module):
    """A structure module that notes what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.rows: set[int] = set()
        self.anchors: list[tuple[int, ...]] = []
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(
        self, frozen: Tensor, aligned: Tensor, *, anchors: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        self.calls += 1
        self.rows.add(len(frozen))
        self.seen.append((frozen.clone(), aligned.detach().clone()))
        if anchors is not None:
            self.anchors.append((*anchors[0].shape, *anchors[1].shape))
        return (frozen.mean() - aligned.mean()).square()


class TestBesideThePairs:
    def test_unpaired_rows_are_anchors_of_their_side(self) -> None:
        spy = Spy()
        Aligner(structure=spy, epochs=1, dim=10, keep="frozen", unpaired_weight=0.0).fit(
            X, Y, unpaired=(NEW_X, NEW_Y[:30])
        )
        assert spy.anchors == [(60, 20, 60, 10), (30, 14, 30, 10)]

    def test_unpaired_rows_matter(self) -> None:
        with_rows = Aligner().fit(X, Y, unpaired=(NEW_X, NEW_Y)).transform_x(NEW_X)
        assert not torch.equal(with_rows, Aligner().fit(X, Y).transform_x(NEW_X))

    def test_noise_is_gaussian_in_deviations_of_the_columns(self) -> None:
        from scipy.stats import kstest

        deviation = torch.tensor([0.5, 0.0, 3.0])
        x = torch.randn(4000, 3)
        noise = add_noise(x, deviation, torch.Generator().manual_seed(0)) - x
        assert torch.equal(noise[:, 1], torch.zeros(4000))
        for column in (0, 2):
            assert kstest(noise[:, column].numpy() / deviation[column].item(), "norm").pvalue > 0.01

    @pytest.mark.parametrize("batch_size", [50, 4096])
    def test_noise_is_new_in_every_batch_and_both_terms_see_it(self, batch_size: int) -> None:
        spy = Spy()
        heads = nn.Linear(20, 8), nn.Linear(14, 8)
        first = copy.deepcopy(heads[0])
        options = {"head": heads, "structure": spy, "keep": "frozen", "batch_size": batch_size}
        Aligner(**options, epochs=20).fit(X, Y)
        frozen, aligned = zip(*spy.seen[::2], strict=True)  # of x
        torch.testing.assert_close(first(frozen[0]), aligned[0])
        # Columns of variance 1 with noise of variance 1, of rows that never come back.
        torch.testing.assert_close(
            torch.cat(frozen).var(0).mean(), torch.tensor(2.0), rtol=0.1, atol=0
        )
        assert len(torch.cat(frozen).unique(dim=0)) == sum(map(len, frozen))

    def test_fusemix_lies_between_pairs_at_one_place_on_both_sides(self) -> None:
        x = torch.randn(500, 3)
        mixed_x, mixed_y = fusemix(x, 2 * x, 1.0, torch.Generator().manual_seed(0))
        torch.testing.assert_close(mixed_y, 2 * mixed_x)
        torch.testing.assert_close(mixed_x.mean(0), x.mean(0), rtol=0, atol=0.15)

    @pytest.mark.parametrize("alpha", [0.3, 1.0, 5.0])
    def test_fusemix_is_beta(self, alpha: float) -> None:
        from scipy.stats import beta, kstest

        x = torch.arange(4000.0)[:, None].double()
        mixed, _ = fusemix(x, x, alpha, torch.Generator().manual_seed(0))
        partner = torch.randperm(4000, generator=torch.Generator().manual_seed(0))
        omega = ((mixed[:, 0] - partner) / (x[:, 0] - partner))[partner != x[:, 0]]
        assert kstest(omega.numpy(), beta(alpha, alpha).cdf).pvalue > 0.01


class TestSchedules:
    def test_shares(self) -> None:
        assert [linear_warmup(t, 0.5) for t in (0.0, 0.25, 0.5, 1.0)] == [0, 0.5, 1, 1]
        assert linear_warmup(0.0, 0.0) == 1
        assert linear_warmup(1.0, 2.0) == 0.5
        assert [cosine_decay(t) for t in (0.0, 0.5, 1.0)] == pytest.approx([1, 0.5, 0])
        assert constant(0.3) == 1

    def test_scale_is_at_most_a_hundred(self) -> None:
        heads = nn.Identity(), nn.Identity()
        objective = Objective(heads, sr.ClipLoss(), None, 0.0, 1e4, learn_scale=True)
        x = torch.randn(5, 3)
        total = objective(Batch(x, x.roll(1, 0), None), 1.0).total
        torch.testing.assert_close(total, sr.clip_loss(x, x.roll(1, 0), 100.0), rtol=1e-4, atol=0)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"head": "linaer"}, "head to be one of"),
            ({"head": (nn.Linear(2, 2),)}, "a pair of modules"),
            ({"head": 3}, "a pair of modules"),
            ({"layers": "best"}, "layers to be one of"),
            ({"layers": 3.5}, "layers to be"),
            ({"layers": 0}, "layers >= 1"),
            ({"structure_weight": -1}, "structure_weight"),
            ({"structure": "js"}, "structure to be a module"),
            ({"epochs": -1}, "epochs"),
            ({"batch_size": 1}, "batch_size"),
            ({"lr": "fast"}, "lr to be one of"),
            ({"lr": 0.0}, "lr"),
            ({"fusemix": 0.0}, "fusemix"),
            ({"noise": -1.0}, "noise"),
            ({"monitor": "loss"}, "monitor"),
            ({"start": "pca"}, "start"),
            ({"keep": "all"}, "keep"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=f"Aligner: expected.*{message}"):
            sr.Aligner(**options).fit(X, Y)

    @pytest.mark.parametrize(
        ("x", "y", "more", "message"),
        [
            (X, Y[:-1], {}, "same number of rows, got 120 and 119"),
            (X[:5], Y[:5], {}, "at least 8 pairs, got 5"),
            (X[0], Y, {}, r"x of shape \(n, d\)"),
            (X.long(), Y, {}, "floating dtype"),
            ("path", Y, {}, "x to be an array"),
            ([], Y, {}, "x with at least one layer"),
            (X, Y, {"ids": [1, 2]}, "120 ids, one for each pair, got 2"),
            (X, Y, {"validation": X}, r"validation to be \(x, y\)"),
            (X, Y, {"validation": (NEW_X[:, :3], NEW_Y)}, "20 columns it was fitted on, got 3"),
            (X, Y, {"unpaired": (X, Y, X)}, "unpaired to be two sets"),
            (X.index_fill(0, torch.tensor(3), float("nan")), Y, {}, "x without NaN"),
        ],
    )
    def test_features(self, x: Any, y: Any, more: dict[str, Any], message: str) -> None:
        with pytest.raises((TypeError, ValueError), match=message):
            Aligner().fit(x, y, **more)

    def test_unknown_layer(self) -> None:
        with pytest.raises(ValueError, match=r"a layer of x, which has 'a', 'b', got 'c'"):
            Aligner(layers=("c", 0)).fit({"a": X, "b": X}, Y)

    def test_before_fit(self, tmp_path: Path) -> None:
        for call in (
            lambda a: a.transform_x(X),
            lambda a: a.score(X, Y),
            lambda a: a.save(tmp_path / "a"),
        ):
            with pytest.raises(RuntimeError, match="expected a fitted Aligner"):
                call(sr.Aligner())

    def test_a_file_that_the_first_release_wrote(self) -> None:
        """Options, history and rows are those that 0.1.0 had; it trained without noise."""
        aligner = sr.Aligner.load(FILES / "aligner_0.1.0.safetensors")
        assert (aligner.layers_, aligner.dim, aligner.seed) == (("late", 0), 4, 3)
        assert (aligner.structure_weight, aligner.noise, aligner.head) == (20.0, 0, "linear")
        assert aligner.history_["weight"] == [20.0] * 3
        assert aligner.stopped_ is None
        rows = {
            "x": [[0.191490039, 0.722124994, -0.664713919, -0.00475143595],
                  [-0.58381170, -0.464713663, -0.650383055, 0.142151340]],
            "y": [[0.896088898, -0.160313845, 0.412502348, 0.0341459467],
                  [0.593008995, -0.621780455, 0.506999314, 0.0684187263]],
        }  # fmt: skip
        z_x, z_y = aligner.transform_x(torch.eye(6)[:2]), aligner.transform_y(torch.eye(5)[:2])
        torch.testing.assert_close(z_x, torch.tensor(rows["x"]))
        torch.testing.assert_close(z_y, torch.tensor(rows["y"]))

    def test_a_file_from_before_there_was_noise(self, tmp_path: Path) -> None:
        """As 0.1.0 wrote it: trained without."""
        Aligner().fit(X, Y).save(tmp_path / "now")
        with safe_open(tmp_path / "now", framework="pt") as file:
            texts = file.metadata()
        options = json.loads(texts["options"])
        del options["noise"]
        save_file(
            load_file(tmp_path / "now"), tmp_path / "old", texts | {"options": json.dumps(options)}
        )
        assert sr.Aligner.load(tmp_path / "now").noise is None
        assert sr.Aligner.load(tmp_path / "old").noise == 0

    def test_files(self, tmp_path: Path) -> None:
        sr.save_heads(tmp_path / "heads", sr.LinearHead(2, 2))
        with pytest.raises(ValueError, match=r"to be what Aligner\.save wrote"):
            sr.Aligner.load(tmp_path / "heads")
        own = Aligner(head=(nn.Linear(20, 8), nn.Linear(14, 8))).fit(X, Y)
        with pytest.raises(TypeError, match=r"Aligner\.save: expected heads that are"):
            own.save(tmp_path / "own")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("head", [*TRAINED, *CLOSED])
def test_on_a_gpu(head: str) -> None:
    here = Aligner(head=head).fit(X, Y)
    there = Aligner(head=head, device="cuda").fit(X, Y)
    assert there.transform_x(NEW_X).device.type == "cuda"
    assert there.score(NEW_X, NEW_Y) == pytest.approx(here.score(NEW_X, NEW_Y), abs=0.1)
