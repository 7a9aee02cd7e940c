"""An error at any call that touches the disk, and a run that goes on after it."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import normal

from structure_reg import FeatureStore, extract_features
from structure_reg.features import store as store_file

CALLS = ("open", "write", "lseek", "ftruncate", "fsync", "replace", "close", "unlink", "read")
X = {"a": normal(6, 2, seed=0), "b": normal(6, 3, seed=1)}


def started(path: Path) -> FeatureStore:
    return FeatureStore.create(path, range(6), model="tiny")


def finish(store: FeatureStore) -> None:
    """Append what is missing, two rows at a time."""
    while store.pending:
        rows = slice(store.done, store.done + 2)
        store.append({layer: x[rows] for layer, x in X.items()})


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


class Faults:
    """Makes one call of os fail: before it acts, after it, or halfway through a write."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls, self.at, self.late = 0, -1, False
        self.error: Callable[[], BaseException] = KeyboardInterrupt
        for name in CALLS:
            patch.setattr(os, name, self.faulty(name, getattr(os, name)))

    def faulty(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls != self.at + 1:
                return None if name == "fsync" else call(*args, **kwargs)
            if name == "write":
                call(args[0], args[1][: len(args[1]) // 2])
            elif name == "close" or (self.late and name not in ("open", "fsync")):
                call(*args, **kwargs)
            raise self.error()

        return counted

    def strike(self, at: int, error: Any, *, late: bool) -> None:
        self.calls, self.at, self.error, self.late = 0, at, error, late


def full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """Faults at calls of os, with a commit at every append and no waiting for the disk."""
    monkeypatch.setattr(store_file, "COMMIT_SECONDS", 0)
    with monkeypatch.context() as patch:
        yield Faults(patch)


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, full], ids=["interrupt", "full disk"])
@pytest.mark.parametrize("same", [True, False], ids=["the same object", "a new object"])
def test_after_an_error_anywhere_a_run_goes_on_to_the_same_bytes(
    tmp_path: Path, faults: Faults, error: Any, late: bool, same: bool
) -> None:
    finish(started(tmp_path / "whole"))
    expected, total = contents(tmp_path / "whole"), faults.calls
    assert total > 100
    struck = 0
    for at in range(total):
        path, store = tmp_path / f"{at}", None
        faults.strike(at, error, late=late)
        done = 0
        try:
            store = started(path)
            while store.pending:
                done = store.done
                store.append({layer: x[done : done + 2] for layer, x in X.items()})
        except (KeyboardInterrupt, OSError):
            struck += 1
            assert store is None or store.done == done
        faults.strike(-1, error, late=late)
        if store is None or not same:
            if store is not None:
                store.close()
            store = started(path)
        finish(store)
        assert contents(path) == expected, f"call {at}"
        FeatureStore(path).verify()
    assert struck > 0.8 * total  # calls that clean up may fail without harm


def test_extraction_goes_on_after_an_error_with_a_store_that_others_may_take(
    tmp_path: Path, faults: Faults
) -> None:
    model, batches = torch.nn.Sequential(torch.nn.Linear(2, 3)).double(), X["a"].split(2)

    def extract(store: FeatureStore) -> None:
        extract_features(model, batches, layers=["0"], pool="mean", store=store)

    extract(started(tmp_path / "whole"))
    total, expected = faults.calls, contents(tmp_path / "whole")
    for at in range(0, total, 3):
        store = started(tmp_path / f"{at}")
        faults.strike(at, full, late=False)
        with suppress(OSError):
            extract(store)
        faults.strike(-1, full, late=False)
        extract(started(store.path))  # while the other object is still there
        assert contents(store.path) == expected


@pytest.mark.skipif(os.name != "posix", reason="a small file system needs mount")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mount is not permitted")
    try:
        x = normal(200, 32, seed=0)  # 50 KiB beside 20 KiB that fill the disk at first
        (disk / "filler").write_bytes(b"x" * 20_000)
        store = FeatureStore.create(disk / "store", range(200), model="tiny")

        def fill() -> None:
            for part in x[store.done :].split(20):
                store.append({"a": part})

        with pytest.raises(OSError, match="No space left"):
            fill()
        assert 0 < store.done < 200
        (disk / "filler").unlink()
        fill()
        whole = FeatureStore.create(tmp_path / "whole", range(200), model="tiny")
        whole.append({"a": x})
        assert contents(disk / "store") == contents(tmp_path / "whole")
        FeatureStore(disk / "store").verify()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
