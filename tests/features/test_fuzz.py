"""A store that somebody tampered with is refused with a documented error, whatever was changed."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from contract import normal

from structure_reg import FeatureStore, merge_stores

DOCUMENTED = (ValueError, FileNotFoundError, KeyError)
NASTY: list[Any] = [
    *(None, True, False, -1, 0, 1, 2.5, 10**9, 2**63, 10**30, -(10**30), 1e308, float("nan")),
    *("", "x", "../x", "/etc/passwd", "x" * 5000, "\0", "\ud800", "é", "float16", "int8"),
    *([], {}, [[]], [1], {"a": 1}, {"file": "x", "width": 1, "crc32": 0}),
]
DEEP = ["[" * 100_000, '{"a":' * 100_000, "[" * 400 + "]" * 400, "[" * 900 + "]" * 900]
TEXTS = [*DEEP, "", "{", "null", "9" * 5000, "\ufeff{}", '"\ud800"']


def fill(path: Path, rows: range = range(6)) -> None:
    x = {"a": normal(6, 3, seed=0)[rows], "b": normal(6, 3, seed=1)[rows]}
    FeatureStore.create(path, [*"abcdef"], rows=rows, model="tiny").append(x)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    entries: Any = value.items() if isinstance(value, dict) else enumerate(value)
    deeper = [places(v, (*path, k)) for k, v in entries if isinstance(v, dict | list)]
    return [(*path, key) for key in value] + [p for part in deeper for p in part]


def mutate_json(directory: Path, at_random: random.Random) -> None:
    path = directory / at_random.choice(["manifest.json", "manifest.json", "ids.json"])
    value = json.loads(path.read_text())
    text = at_random.choice(TEXTS)
    if at_random.random() < 0.9 and isinstance(value, dict):
        *outer, key = at_random.choice(places(value))
        part = value
        for step in outer:
            part = part[step]
        if at_random.random() < 0.2:
            part[f"{key}"[::-1]] = part.pop(key)
        elif at_random.random() < 0.2:
            part[key] = "DEEP"
            text = json.dumps(value).replace('"DEEP"', at_random.choice(DEEP))
        else:
            part[key] = at_random.choice(NASTY)
    if text not in TEXTS or isinstance(value, dict):
        text = text if "[[[" in text else json.dumps(value)
    else:
        value = at_random.choice([at_random.choice(NASTY), [at_random.choice(NASTY)] * 6, text])
        text = json.dumps(value) if value is not text else text
        seal(directory, text)
    path.write_bytes(text.encode(errors="surrogatepass"))


def seal(directory: Path, ids_text: str) -> None:
    """Give the manifest the checksum of other ids, as somebody who knows the format would."""
    path = directory / "manifest.json"
    facts = json.loads(path.read_text())
    facts["ids_crc32"] = zlib.crc32(ids_text.encode(errors="surrogatepass"))
    path.write_text(json.dumps(facts))


def mutate_bytes(directory: Path, at_random: random.Random) -> None:
    path = at_random.choice(sorted(directory.iterdir()))
    data = bytearray(path.read_bytes())
    change = at_random.randrange(4)
    if change == 0:
        del data[at_random.randrange(len(data)) :]
    elif change == 1:
        data += bytes(at_random.randrange(1, 99))
    else:
        for _ in range(at_random.randrange(1, 9)):
            data[at_random.randrange(len(data))] = at_random.randrange(256)
    path.write_bytes(data)


def exchange(directory: Path, at_random: random.Random) -> None:
    first, second = at_random.sample(sorted(directory.iterdir()), 2)
    held = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(held)


def replace_file(directory: Path, at_random: random.Random) -> None:
    path = at_random.choice(sorted(directory.iterdir()))
    kept = shutil.move(path, directory.parent / "outside")
    if at_random.random() < 0.3:
        path.mkdir()
    elif at_random.random() < 0.9:
        path.symlink_to(kept)


def use(path: Path) -> None:
    """Do with a store all that reads it, and append to it where rows are missing."""
    store = FeatureStore(path)
    repr(store)
    store.verify()
    if store.pending:
        store.append({layer: normal(1, 3, seed=2) for layer in ("a", "b")})
    for layer in store:
        store[layer].sum()


def refused(work: Callable[[], object]) -> bool:
    try:
        work()
    except DOCUMENTED as error:
        assert len(str(error)) < 20_000  # noqa: PT017
        return True
    return False


MUTATIONS = [mutate_json, mutate_json, mutate_bytes, exchange, replace_file]


def refusals(tmp_path: Path, cases: int, seed: int) -> int:
    at_random, count = random.Random(seed), 0
    fill(tmp_path / "whole")
    fill(tmp_path / "half", range(3, 6))
    path = tmp_path / "work" / "store"
    for _ in range(cases):
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", path)
        at_random.choice(MUTATIONS)(path, at_random)
        by_opening = refused(lambda: use(path))
        refused(lambda: merge_stores(tmp_path / "work/merged", [path, tmp_path / "half"]))
        refused(lambda: FeatureStore.create(path, [*"abcdef"], model="tiny"))
        count += by_opening
    return count


def test_tampered_stores_are_refused(tmp_path: Path) -> None:
    assert refusals(tmp_path, 200, seed=0) > 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_many_tampered_stores_are_refused(tmp_path: Path, seed: int) -> None:
    assert refusals(tmp_path, 1500, seed=seed) > 1100


def test_a_claimed_total_allocates_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    path = tmp_path / "s" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "total": 2**62}))
    with pytest.raises(ValueError, match=r"each row in exactly one in .*, got row 3 in 0$"):
        merge_stores(tmp_path / "merged", [tmp_path / "s"])


@pytest.mark.parametrize("name", ["manifest.json", "ids.json", "000-a.safetensors"])
def test_links_are_refused_and_never_written_through(tmp_path: Path, name: str) -> None:
    store = FeatureStore.create(tmp_path / "s", range(4), model="tiny")
    store.append({"a": normal(2, 3, seed=0)})
    store.close()
    outside = tmp_path / "outside"
    shutil.move(store.path / name, outside)
    (store.path / name).symlink_to(outside)
    before = outside.read_bytes()
    for work in (
        lambda: FeatureStore(store.path),
        lambda: FeatureStore.create(store.path, range(4), model="tiny"),
        lambda: store.append({"a": normal(2, 3, seed=0)}),
    ):
        with pytest.raises(ValueError, match=rf"{name} to be a plain file in .*, got a link"):
            work()
    assert outside.read_bytes() == before


def test_a_draft_that_is_a_link_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "s").mkdir()
    for name in ("ids.json.tmp", "manifest.json.tmp"):
        (tmp_path / "s" / name).symlink_to(tmp_path / "outside")
    fill(tmp_path / "s")
    assert (tmp_path / "outside").read_text() == "mine"


def test_values_too_deep_are_refused_before_they_are_written(tmp_path: Path) -> None:
    deep: Any = 0
    for _ in range(200):
        deep = [deep]
    with pytest.raises(ValueError, match=r"expected preprocessing of at most 100 levels, got more"):
        FeatureStore.create(tmp_path, range(2), model="tiny", preprocessing=deep)
