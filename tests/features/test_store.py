"""The store returns what was written, and refuses everything else."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from structure_reg import FeatureStore, extract_features, merge_stores
from structure_reg.features import merge
from structure_reg.features import store as store_file

IDS: list[str | int] = [f"image {i}" for i in range(20)]


def batches() -> list[Tensor]:
    return list(normal(20, 6, seed=0, dtype=torch.float32).split(8))


def encoder() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def filled(path: Path) -> FeatureStore:
    store = FeatureStore.create(path, IDS, model="tiny", revision="1", preprocessing={"resize": 2})
    extract_features(encoder(), batches(), layers=["0", "2"], pool="mean", store=store)
    return FeatureStore(path)


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    widths=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
)
def test_gives_back_what_was_appended(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    widths: list[int],
    dtype: torch.dtype,
) -> None:
    path, n = tmp_path_factory.mktemp("store"), sum(sizes)
    x = {f"layer/{i}": normal(n, d, seed=i, dtype=dtype) for i, d in enumerate(widths)}
    x["layer/0"][0, 0] = torch.nan
    store = FeatureStore.create(path, range(n), model="none")
    start = 0
    for size in sizes:
        assert list(store.pending) == list(range(start, n))
        store.append({name: features[start : start + size] for name, features in x.items()})
        start += size
    for opened in (store, FeatureStore(path)):
        opened.verify()
        assert list(opened) == list(x)
        for name, features in opened.items():
            assert torch.equal(features.view(torch.uint8), x[name].view(torch.uint8))
    # Any safetensors reader can read the files, without this library.
    for name, entry in json.loads((path / "manifest.json").read_text())["layers"].items():
        other = load_file(path / entry["file"])["features"]
        assert torch.equal(other.view(torch.uint8), x[name].view(torch.uint8))


def test_is_filled_with_what_extraction_returns(tmp_path: Path) -> None:
    store = filled(tmp_path / "new" / "store")
    expected = extract_features(encoder(), batches(), layers=["0", "2"], pool="mean")
    assert list(store) == ["0", "2"]
    assert all(torch.equal(store[name], expected[name]) for name in expected)
    assert store.ids == IDS
    assert store.rows == range(20)
    assert store.done == 20
    assert repr(store) == "FeatureStore(20 of 20 rows; '0': 5, '2': 3)"
    facts = json.loads((store.path / "manifest.json").read_text())
    assert facts["model"] == "tiny"
    assert facts["revision"] == "1"
    assert facts["preprocessing"] == {"resize": 2}
    assert facts["extraction"] == {"layers": ["0", "2"], "pool": "mean", "dtype": None}
    assert facts["torch"] == torch.__version__


def test_writing_to_what_it_gives_does_not_reach_the_disk(tmp_path: Path) -> None:
    store = filled(tmp_path)
    before = contents(tmp_path)
    store["0"].zero_()
    assert contents(tmp_path) == before
    assert store["0"].any()
    with pytest.raises(KeyError, match=r"expected one of '0', '2', got '1'"):
        store["1"]


def test_a_finished_store_is_returned_without_running_the_model(tmp_path: Path) -> None:
    store = filled(tmp_path)

    def fail() -> Any:
        raise AssertionError
        yield

    again = FeatureStore.create(
        tmp_path, IDS, model="tiny", revision="1", preprocessing={"resize": 2}
    )
    features = extract_features(encoder(), fail(), layers=["0", "2"], pool="mean", store=again)
    assert all(torch.equal(features[name], store[name]) for name in store)


@pytest.mark.parametrize("stop", [3, 8, 11, 16, 19])
def test_resumes_within_a_batch(tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_file, "COMMIT_SECONDS", 0)
    whole = filled(tmp_path / "whole")
    options = {"model": "tiny", "revision": "1", "preprocessing": {"resize": 2}}
    store = FeatureStore.create(tmp_path / "part", IDS, **options)
    store.record(whole.manifest.extraction)
    store.append({name: x[:stop] for name, x in whole.items()})
    store.close()
    again = FeatureStore.create(tmp_path / "part", IDS, **options)
    assert again.done == stop
    seen: list[int] = []
    model = encoder()
    model.register_forward_hook(lambda _m, _i, output: seen.append(len(output)))
    extract_features(model, batches(), layers=["0", "2"], pool="mean", store=again)
    assert sum(seen) == 20 - stop // 8 * 8  # the batches that are done are passed over
    assert contents(tmp_path / "part") == contents(tmp_path / "whole")


def test_an_unfinished_store_gives_no_features(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path, IDS, model="tiny")
    store.append({"0": torch.ones(3, 2)})
    with pytest.raises(ValueError, match=r"expected all 20 rows in .*, got 3; run the extr"):
        store["0"]
    with pytest.raises(ValueError, match=r"expected all 20 rows in .*, got 16; run"):
        extract_features(
            encoder(), batches()[:2], layers=["0"], pool="mean",
            store=FeatureStore.create(tmp_path / "b", IDS, model="tiny"),
        )  # fmt: skip


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def edit(**changes: Any) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        path = directory / "manifest.json"
        facts = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in facts.items() if v is not ...}))

    return change


LAYER = {"file": "000-0.safetensors", "width": 5, "crc32": 0}


CONTRADICTION = r"contradict each other$"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no file": (lambda d: (d / "000-0.safetensors").unlink(), r"file 000-0.* in .*, got none$"),
    "cut": (lambda d: cut(d / "001-2.safetensors"), r"001-2.* of \d+ bytes in .*, got \d+$"),
    "a bit of the header": (lambda d: flip(d / "000-0.safetensors", 40), r"to begin with b'"),
    "another's file": (
        lambda d: shutil.copy(d / "001-2.safetensors", d / "000-0.safetensors"),
        r"000-0.safetensors of \d+ bytes in .*, got \d+$",
    ),
    "other ids": (lambda d: (d / "ids.json").write_text('["x"]'), r"ids.json of .*another$"),
    "no ids": (lambda d: (d / "ids.json").unlink(), r"ids.json of .*another$"),
    "half a manifest": (lambda d: cut(d / "manifest.json"), r"manifest of a store .*JSONDecodeE"),
    "no object": (lambda d: (d / "manifest.json").write_text("[]"), r"manifest of a store .*got "),
    "format": (edit(format=2), r"manifest of format 1 .*got 2$"),
    "a fact less": (edit(done=...), r"manifest of a store .*missing 1 required"),
    "a fact more": (edit(extra=1), r"manifest of a store .*unexpected keyword"),
    "more done than rows": (edit(done=21), CONTRADICTION),
    "less than nothing done": (edit(done=-1), CONTRADICTION),
    "dtype": (edit(dtype="float16"), r"000-0.safetensors of \d+ bytes"),
    "no dtype": (edit(dtype="object"), CONTRADICTION),
    "no step": (edit(step=0), r"got ValueError"),
    "rows beyond the dataset": (edit(stop=21), CONTRADICTION),
    "a file elsewhere": (edit(layers={"0": {**LAYER, "file": "../0"}}), CONTRADICTION),
    "a width in words": (edit(layers={"0": {**LAYER, "width": "5"}}), CONTRADICTION),
    "another width": (edit(layers={"0": {**LAYER, "width": 6}}), r"000-0.safetensors of"),
    "no mapping": (edit(layers=[LAYER]), r"manifest of a store .*got AttributeError"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_refuses_what_does_not_match_the_manifest(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    filled(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=rf"^FeatureStore: expected .*{message}"):
        FeatureStore(tmp_path)


def test_refuses_features_that_were_changed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    flip(tmp_path / "001-2.safetensors", -1)
    opened = FeatureStore(tmp_path)
    refusals: list[Callable[[], object]] = [
        opened.verify,
        lambda: merge_stores(tmp_path / "merged", [tmp_path]),
        lambda: FeatureStore.create(
            tmp_path, IDS, model="tiny", revision="1", preprocessing={"resize": 2}
        ),
    ]
    for refuse in refusals:
        with pytest.raises(ValueError, match=r"expected checksum \d+ of 001-2.safetensors in"):
            refuse()
    assert store.manifest.layers["2"].crc32 != zlib.crc32(b"")


def test_refuses_a_directory_that_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^FeatureStore: expected a manifest in .*/x, got"):
        FeatureStore(tmp_path / "x")
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"empty directory or a store in .*, got thesis.tex$"):
        FeatureStore.create(tmp_path, IDS, model="tiny")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": "huge"}, r"model 'huge' in .*, got 'tiny'$"),
        ({"revision": None}, r"revision None in .*, got '1'$"),
        ({"preprocessing": {"resize": 3}}, r"preprocessing {'resize': 3} in .*, got {'resize': 2}"),
        ({"ids": [*IDS[:-1], "another"]}, r"ids_crc32 \d+ in"),
        ({"ids": [*IDS, "one more"]}, r"rows range\(0, 21\) in"),
        ({"rows": range(0, 20, 2)}, r"rows range\(0, 19, 2\) in"),
    ],
)
def test_does_not_resume_another_run(tmp_path: Path, changed: Any, message: str) -> None:
    filled(tmp_path)
    same: dict[str, Any] = {
        "ids": IDS, "model": "tiny", "revision": "1", "preprocessing": {"resize": 2}
    }  # fmt: skip
    FeatureStore.create(tmp_path, **same)
    with pytest.raises(ValueError, match=rf"^FeatureStore: expected {message}"):
        FeatureStore.create(tmp_path, **{**same, **changed})


@pytest.mark.parametrize(
    "other", [{"layers": ["0"]}, {"pool": "cls"}, {"dtype": torch.float16}], ids=str
)
def test_does_not_resume_another_extraction(tmp_path: Path, other: Any) -> None:
    store = filled(tmp_path)
    options = {"layers": ["0", "2"], "pool": "mean", **other}
    with pytest.raises(ValueError, match=r"expected features extracted .*, got \{'layers': \['0'"):
        extract_features(encoder(), batches(), store=store, **options)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ([torch.ones(2, 3)], TypeError, r"a mapping from layer to tensor, got list$"),
        ({}, ValueError, r"named layers in .*, got none$"),
        ({0: torch.ones(2, 3)}, ValueError, r"named layers in .*, got 0$"),
        ({"a": torch.ones(2)}, ValueError, r"a of shape \(n, d\), got \(2,\)$"),
        ({"a": torch.ones(2, 3).long()}, TypeError, r"a in float16, .*got torch.int64$"),
        ({"a": torch.ones(2, 4)}, ValueError, r"layers and widths {'a': 3} in .*got {'a': 4}$"),
        ({"b": torch.ones(2, 3)}, ValueError, r"layers and widths {'a': 3} in .*got {'b': 3}$"),
        ({"a": torch.ones(2, 3).double()}, ValueError, r"features in float32 in .*got float64$"),
        ({"a": torch.ones(4, 3)}, ValueError, r"at most the 3 missing rows in .*got 4$"),
    ],
)
def test_refuses_rows_that_do_not_fit(
    tmp_path: Path, features: Any, error: type[Exception], message: str
) -> None:
    store = FeatureStore.create(tmp_path, range(5), model="none")
    store.append({"a": torch.ones(2, 3)})
    with pytest.raises(error, match=rf"^FeatureStore(\.append)?: expected {message}"):
        store.append(features)
    assert store.done == 2


def test_refuses_layers_of_different_rows_or_dtypes(tmp_path: Path) -> None:
    store = FeatureStore.create(tmp_path, range(5), model="none")
    with pytest.raises(ValueError, match=r"one number of rows for all layers in .*got '2', '3'$"):
        store.append({"a": torch.ones(2, 3), "b": torch.ones(3, 3)})
    with pytest.raises(ValueError, match=r"one dtype for all layers in .*got 'torch.float16', 't"):
        store.append({"a": torch.ones(2, 3), "b": torch.ones(2, 3).half()})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ids": "abc"}, TypeError, r"ids to be a list, an array or a tensor, got str$"),
        ({"ids": []}, ValueError, r"at least one id, got none$"),
        ({"ids": [1.5]}, TypeError, r"ids to be strings or integers, got float$"),
        ({"rows": [0, 1]}, TypeError, r"rows to be a range, got list$"),
        ({"rows": range(21)}, ValueError, r"within the 20 ids, got range\(0, 21\)$"),
        ({"rows": range(5, 5)}, ValueError, r"ascending range within the 20 ids"),
        ({"rows": range(5, 0, -1)}, ValueError, r"ascending range within the 20 ids"),
    ],
)
def test_refuses_ids_and_rows_that_are_none(
    tmp_path: Path, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"^FeatureStore.create: expected .*{message}"):
        FeatureStore.create(tmp_path, **{"ids": IDS, "model": "tiny", **options})


def shards(directory: Path, parts: list[range]) -> list[Path]:
    """Fill one shard per part, each with its own store and batches."""
    data, paths = torch.cat(batches()), []
    for i, rows in enumerate(parts):
        paths.append(directory / f"shard{i}")
        store = FeatureStore.create(
            paths[-1], IDS, rows=rows, model="tiny", revision="1", preprocessing={"resize": 2}
        )
        own = data[rows.start : rows.stop : rows.step]
        extract_features(encoder(), own.split(4), layers=["0", "2"], pool="mean", store=store)
        assert store.ids == [IDS[row] for row in rows]
    return paths


@settings(max_examples=10, deadline=None)
@given(
    cuts=st.sets(st.integers(1, 19), max_size=4),
    world=st.integers(1, 6),
    strided=st.booleans(),
    block=st.sampled_from([1, 3, 7, 4096]),
    order=st.randoms(use_true_random=False),
)
def test_shards_in_any_order_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: set[int],
    world: int,
    strided: bool,
    block: int,
    order: Any,
) -> None:
    path = tmp_path_factory.mktemp("shards")
    edges = [0, *sorted(cuts), 20]
    contiguous = [range(a, b) for a, b in pairwise(edges)]
    paths = shards(
        path, [range(rank, 20, world) for rank in range(world)] if strided else contiguous
    )
    order.shuffle(paths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(merge, "BLOCK_ROWS", block)
        merged = merge_stores(path / "merged", paths)
    assert merged.ids == IDS
    whole = filled(path / "whole")
    # A row shares its batch with other rows than before, so its last bit may differ.
    for name in whole:
        torch.testing.assert_close(merged[name], whole[name])
    # The same features give the same bytes, to the manifest.
    again = FeatureStore.create(
        path / "again", IDS, model="tiny", revision="1", preprocessing={"resize": 2}
    )
    again.record(whole.manifest.extraction)
    again.append({name: x.clone() for name, x in merged.items()})
    assert contents(path / "again") == contents(path / "merged")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([range(10), range(11, 20)], r"each row in exactly one in .*, got row 10 in 0$"),
        ([range(12), range(11, 20)], r"each row in exactly one in .*, got row 11 in 2$"),
        ([range(0, 20, 2)], r"each row in exactly one in .*, got row 1 in 0$"),
    ],
)
def test_refuses_shards_that_are_no_partition(
    tmp_path: Path, parts: list[range], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        merge_stores(tmp_path / "merged", shards(tmp_path, parts))


def test_refuses_shards_that_differ_or_are_not_done(tmp_path: Path) -> None:
    half = {"a": torch.ones(10, 3)}
    changes: dict[str, Any] = {
        "model 'tiny' as in": ({"model": "other"}, half),
        "layers and widths": ({}, {"a": torch.ones(10, 4)}),
        "dtype 'float32'": ({}, {"a": torch.ones(10, 3).half()}),
        "total 20": ({"ids": IDS[:19], "rows": range(9, 19)}, half),
        "all 10 rows": ({}, {"a": torch.ones(9, 3)}),
    }
    first = {"ids": IDS, "model": "tiny"}
    FeatureStore.create(tmp_path / "first", **first, rows=range(10)).append(half)
    for i, (message, (changed, features)) in enumerate(changes.items()):
        FeatureStore.create(
            tmp_path / f"{i}", **{**first, "rows": range(10, 20), **changed}
        ).append(features)
        with pytest.raises(ValueError, match=f"expected {message}|expected a manifest"):
            merge_stores(tmp_path / "merged", [tmp_path / "first", tmp_path / f"{i}"])
    with pytest.raises(ValueError, match=r"expected at least one shard in .*, got none"):
        merge_stores(tmp_path / "merged", [])
