"""Pairs of any number: in memory or streamed, from arrays, maps and stores, the same heads."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from torch import Tensor

import structure_reg as sr
from structure_reg._progress import Progress
from structure_reg.training import aligning, choice, rows
from structure_reg.training.copies import copy_numbers
from structure_reg.training.rows import Rows, mapped_file, rows_of
from structure_reg.training.steps import step_count

N = 90
SHARED = normal(N, 5, seed=0)
X = (SHARED @ normal(5, 9, seed=1) + 0.5 * normal(N, 9, seed=2) + 3).half()
Y = (SHARED @ normal(5, 7, seed=3) + 0.5 * normal(N, 7, seed=4) - 5).half()
OTHER = (SHARED @ normal(5, 4, seed=5) + normal(N, 4, seed=6)).half()
Aligner = partial(sr.Aligner, dim=4, epochs=2, batch_size=32)
EXACT = {"rtol": 0.0, "atol": 1e-5}


@pytest.fixture
def streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "BUDGET", 0)


def fitted(x: Any, y: Any, **options: Any) -> tuple[Tensor, Tensor]:
    aligner = Aligner(**options).fit(x, y)
    return tuple(torch.as_tensor(z) for z in (aligner.transform_x(x), aligner.transform_y(y)))


@pytest.mark.parametrize(
    "options",
    [
        *({"head": head} for head in ("linear", "mlp", "ridge", "cca", "csa", "procrustes")),
        {"head": "asif"},
        {"standardise": False},
        {"head": "cca", "standardise": False},
        {"keep": "frozen"},
        {"start": "random", "structure_weight": 0.0},
        {"noise": 0.0, "batch_size": 200},
        {"layers": ([0, 1], 0)},
        {"layers": ([0, 1], 0), "standardise": False, "head": "procrustes"},
    ],
    ids=str,
)
def test_streamed_pairs_give_the_heads_of_pairs_in_memory(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = [X, OTHER], Y
    options = {"layers": (0, 0)} | options
    in_memory = fitted(x, [y], **options)
    monkeypatch.setattr(rows, "BUDGET", 0)
    for z, expected in zip(fitted(x, [y], **options), in_memory, strict=True):
        torch.testing.assert_close(z.abs(), expected.abs(), **EXACT)


class OnDisk:
    """A data set as h5py reads it: positions in increasing order, and never all rows at once."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.shape, self.dtype, self.most = x.numpy(), tuple(x.shape), np.dtype("f2"), 0

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, slice):
            assert (np.diff(index) > 0).all()
        self.most = max(self.most, len(self.x[index]))
        return self.x[index]


def sources(tmp_path: Path) -> dict[str, tuple[Any, Any]]:
    maps = []
    for name, z in (("x", X), ("y", Y)):
        np.save(tmp_path / f"{name}.npy", z.numpy())
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    store = sr.FeatureStore.create(tmp_path / "store", ids=list(range(N)), model="tiny")
    store.append({"x": X, "y": Y})
    return {
        "tensor": (X, Y),
        "array": (X.numpy(), Y.numpy()),
        "map": (maps[0], maps[1]),
        "store": (store["x"], store["y"]),
        "disk": (OnDisk(X), OnDisk(Y)),
    }


@pytest.mark.parametrize("budget", [0, rows.BUDGET])
@pytest.mark.parametrize("head", ["linear", "ridge"])
def test_any_source_gives_the_same_heads(
    head: str, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "BUDGET", budget)
    found = {name: fitted(*pair, head=head) for name, pair in sources(tmp_path).items()}
    for z_x, z_y in found.values():
        assert torch.equal(z_x, found["tensor"][0])
        assert torch.equal(z_y, found["tensor"][1])


@pytest.mark.usefixtures("streamed")
def test_h5py_is_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "features.h5", "w") as file:
        file["x"], file["y"] = X.numpy(), Y.numpy()
        z = fitted(file["x"], file["y"])
        by_layer = Aligner(layers=("x", "y")).fit(file, file).transform_x(file)
    assert torch.equal(z[0], fitted(X, Y)[0])
    assert torch.equal(torch.as_tensor(by_layer), z[0])


@pytest.mark.usefixtures("streamed")
def test_no_read_takes_more_than_a_batch_or_a_block() -> None:
    x, y = OnDisk(X), OnDisk(Y)
    aligner = Aligner(structure_weight=0.0, start="random")
    with sr.tile_budget(1e-3):
        aligner.fit(x, y)
        aligner.transform_x(x)
    assert x.most == y.most == 32


class Opened(Mapping[str, Any]):
    """Layers that note which of them were opened."""

    def __init__(self, **layers: Tensor) -> None:
        self.layers, self.opened = layers, set[str]()

    def __getitem__(self, name: str) -> Tensor:
        self.opened.add(name)
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@pytest.mark.parametrize("layers", ["last", ("b", 0)])
def test_only_the_chosen_layers_are_opened(layers: Any) -> None:
    x = Opened(a=OTHER, b=X)
    Aligner(head="ridge", layers=layers).fit(x, Y).transform_x(x)
    assert x.opened == {"b"}


def test_layers_are_chosen_on_the_rows_that_select_layers_draws(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, seen = 5200, dict[str, Any]()

    def of_few(xs: dict[str, Tensor], ys: dict[str, Tensor], generator: torch.Generator) -> Any:
        seen.update(xs=xs, ys=ys, state=generator.get_state())
        few = ({name: z[:40] for name, z in side.items()} for side in (xs, ys))
        return sr.select_layers(*few, permutations=2)

    monkeypatch.setattr(choice, "select_layers", of_few)
    x, y = normal(n, 3, seed=0).float(), normal(n, 2, seed=1).float()
    sr.Aligner(head="ridge", layers="select").fit([x, -x], [y])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randperm(n, generator=generator)[:5000]
    assert torch.equal(seen["xs"]["1"], -x[drawn])
    assert torch.equal(seen["ys"]["0"], y[drawn])
    assert torch.equal(seen["state"], generator.get_state())


class TestStreamed:
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.usefixtures("streamed")
    def test_values_that_are_not_finite_are_refused(self, value: float) -> None:
        x = X.clone()
        x[-1, 2] = value
        with pytest.raises(ValueError, match=r"^Aligner.fit: expected x without NaN"):
            Aligner().fit(x, Y)
        with pytest.raises(ValueError, match=r"^Aligner.transform_x: expected x without NaN"):
            Aligner().fit(X, Y).transform_x(x)

    @pytest.mark.usefixtures("streamed")
    def test_a_row_repeated_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^Aligner.fit: expected y with rows that differ"):
            Aligner().fit(X, Y[:1].expand(N, -1))

    @pytest.mark.usefixtures("streamed")
    def test_other_numbers_of_rows_are_refused(self) -> None:
        with pytest.raises(ValueError, match="same number of rows, got 90 and 89"):
            Aligner().fit(X, Y[:-1])

    @pytest.mark.parametrize("monitor", ["recall", "objective"])
    def test_unpaired_rows_and_validation(
        self, monitor: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        others = {"unpaired": (X[:40], Y), "validation": (X[:20], Y[:20])}
        expected = Aligner(monitor=monitor).fit(X, Y, **others)
        monkeypatch.setattr(rows, "BUDGET", 0)
        with sr.tile_budget(1e-3):  # many blocks
            found = Aligner(monitor=monitor).fit(X, Y, **others)
        torch.testing.assert_close(found.transform_x(X), expected.transform_x(X), **EXACT)
        assert found.history_["validation"] == pytest.approx(expected.history_["validation"])

    def test_copies_are_found_by_their_bits(self) -> None:
        x = torch.tensor([[0.0, 1.0], [2.0, 1.0], [-0.0, 1.0], [0.0, 2.0], [2.0, 1.0]])
        numbers = copy_numbers(Rows([x], x.device))
        assert numbers.tolist() == [0, 1, 0, 2, 1]


def resident(path: Path) -> int:
    """KiB of a mapped file that are in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(path.name)
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


class TestMaps:
    @pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux counts pages")
    def test_pages_that_were_read_are_let_go(self, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((8192, 64), np.float16))  # 1 MiB
        x = np.load(tmp_path / "x.npy", mmap_mode="r")
        rows = rows_of("f", "x", {"layer": np.asarray(x)[:]}, "layer", None)
        assert float(x.sum(dtype=np.float32)) == 8192 * 64
        assert resident(tmp_path / "x.npy") >= 1024
        assert torch.equal(rows[8:16], torch.ones(8, 64))
        assert resident(tmp_path / "x.npy") == 0
        assert torch.equal(rows[torch.tensor([5, 3])], torch.ones(2, 64))

    @pytest.mark.parametrize("mode", ["r+", "c"])
    def test_what_was_changed_stays(self, mode: Any, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.ones((64, 8), np.float32))
        x = np.load(tmp_path / "x.npy", mmap_mode=mode)
        x[3] = 7.0
        rows = rows_of("f", "x", x, 0, None)
        rows[:32]
        assert x[3].tolist() == [7.0] * 8 == rows[3:4][0].tolist()

    def test_arrays_without_a_file_have_none(self) -> None:
        x = np.memmap.__new__(np.memmap, __file__, np.uint8, "r")
        for array in (X, X.numpy(), np.asarray(x + 1), x + 1):
            assert mapped_file(array) is None


class TestSteps:
    def test_one_batch_of_all_pairs_has_no_limit(self) -> None:
        assert step_count(4096, 200, 4096, None) == 200

    @pytest.mark.parametrize(("batch_size", "steps"), [(4096, 32), (1024, 512), (8192, 32)])
    def test_many_pairs_have_a_limit_by_cost(self, batch_size: int, steps: int) -> None:
        assert step_count(10**6, 200, batch_size, None) == steps

    def test_max_steps_is_the_limit(self) -> None:
        assert step_count(10**6, 200, 4096, 1000) == 1000
        assert step_count(100, 200, 4096, 5) == 5
        assert len(Aligner(max_steps=3).fit(X, Y).history_["weight"]) == 3

    def test_schedules_span_the_steps(self) -> None:
        long, short = Aligner(epochs=50, max_steps=4), Aligner(epochs=2)  # of 2 steps each
        assert torch.equal(long.fit(X, Y).transform_x(X), short.fit(X, Y).transform_x(X))

    @pytest.mark.parametrize(
        ("value", "error", "message"),
        [(0, ValueError, "max_steps >= 1, got 0"), (2.0, TypeError, "max_steps to be an integer")],
    )
    def test_other_limits_are_refused(
        self, value: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=f"^Aligner: expected {message}"):
            Aligner(max_steps=value).fit(X, Y)


class TestWhatStopped:
    def test_the_last_step(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, logger="structure_reg"):
            aligner = Aligner().fit(X, Y)
        assert aligner.stopped_ == "after 4 steps"
        assert [record.getMessage() for record in caplog.records] == [
            "Aligner.fit: stopped: after 4 steps"
        ]

    def test_no_better_validation(self) -> None:
        aligner = Aligner(batch_size=200, epochs=100, lr=1e-30).fit(X, Y, validation=(X, Y))
        assert aligner.stopped_ == "no better validation since step 0"
        assert len(aligner.history_["weight"]) < 100

    def test_a_closed_form_did_not_train(self, tmp_path: Path) -> None:
        aligner = Aligner(head="cca").fit(X, Y)
        assert aligner.stopped_ is None
        assert aligner.history_["stopped"] is None
        aligner.save(tmp_path / "aligner.safetensors")
        assert sr.Aligner.load(tmp_path / "aligner.safetensors").stopped_ is None

    def test_the_history_and_the_file_say_it_too(self, tmp_path: Path) -> None:
        aligner = Aligner(max_steps=3).fit(X, Y)
        aligner.save(tmp_path / "aligner.safetensors")
        for again in (aligner, sr.Aligner.load(tmp_path / "aligner.safetensors")):
            assert again.stopped_ == again.history_.stopped == "after 3 steps"
            assert again.history_["stopped"] == again.history_.get("stopped") == "after 3 steps"
            assert "stopped" not in list(again.history_)

    def test_it_is_silent_unless_asked(self, capfd: pytest.CaptureFixture[str]) -> None:
        Aligner().fit(X, Y)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize(("head", "last"), [("linear", "training heads"), ("cca", "fitting")])
    def test_one_bar_ends_full(
        self, head: str, last: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        pytest.importorskip("tqdm")
        Aligner(head=head, progress=True).fit(X, Y)
        bar = capfd.readouterr().err
        assert bar.count("\n") == 1
        assert last in bar
        assert "100%" in bar

    def test_the_bar_counts_the_search_for_layers_and_shrinkage(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, int] = {}

        class Counted(Progress):
            def stage(self, name: str, steps: int | None = None) -> None:
                self.name = name
                super().stage(name, steps)

            def step(self) -> None:
                seen[self.name] = seen.get(self.name, 0) + 1
                super().step()

        monkeypatch.setattr(aligning, "Progress", Counted)
        Aligner().fit([X, OTHER], Y)
        assert seen["training heads"] == 4
        assert seen["choosing layers"] >= 16
        seen.clear()
        Aligner().fit(X, Y)
        assert seen["training heads"] == 4
        assert seen["choosing shrinkage"] >= 8
