"""One writer at a time; readers, paths and working directories of any kind."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from contract import normal

from structure_reg import FeatureStore, extract_features

X = normal(6, 3, seed=0)


def started(path: Path) -> FeatureStore:
    return FeatureStore.create(path, range(6), model="tiny")


SECOND = r"^FeatureStore: expected one writer at a time in .*, got a second; close\(\) the other"


def test_a_second_writer_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    first, second = started(tmp_path), started(tmp_path)
    first.append({"a": X[:2]})
    with pytest.raises(ValueError, match=SECOND):
        second.append({"a": X[2:4]})
    assert FeatureStore(tmp_path).done in (0, 2)  # readers are let in
    first.close()
    with pytest.raises(ValueError, match=r"rows that this object knows .*got those of another wr"):
        second.append({"a": X[:2]})
    third = started(tmp_path)
    third.append({"a": X[2:4]})
    with pytest.raises(ValueError, match=SECOND):
        first.append({"a": X[2:4]})
    third.append({"a": X[4:]})
    assert torch.equal(FeatureStore(tmp_path)["a"], X)


def test_the_lock_goes_with_the_object(tmp_path: Path) -> None:
    store = started(tmp_path)
    store.append({"a": X[:2]})
    del store
    gc.collect()
    started(tmp_path).append({"a": X})


def test_copies_and_pickles_hold_no_lock(tmp_path: Path) -> None:
    store = started(tmp_path)
    store.append({"a": X[:2]})
    for other in (copy.deepcopy(store), pickle.loads(pickle.dumps(store))):
        assert other.done == 2
        with pytest.raises(ValueError, match=SECOND):
            other.append({"a": X[2:]})
    store.append({"a": X[2:]})


HOLDS = """
import os, sys, time, torch
from structure_reg import FeatureStore
store = FeatureStore.create(sys.argv[1], range(6), model="tiny")
store.append({"a": torch.ones(2, 3, dtype=torch.float64)})
if os.fork() == 0:  # a worker, which outlives its parent
    time.sleep(60)
print("holds", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX")
def test_a_killed_process_leaves_no_lock_even_to_its_workers(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    other = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ}
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        store = started(tmp_path)
        with pytest.raises(ValueError, match=SECOND):
            store.append({"a": X})
        other.kill()
        other.wait()
        started(tmp_path).append({"a": X})
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()


def test_paths_of_any_script_and_a_working_directory_that_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for path in ("données/特徴 😀", Path("plain")):
        monkeypatch.chdir(tmp_path)
        store = FeatureStore.create(path, ["é", "特", 3, "", "e", "f"], model="modèle 😀")
        store.append({"couche/é": X[:2]})
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.append({"couche/é": X[2:]})
        store.verify()
        assert torch.equal(store["couche/é"], X)
        assert FeatureStore(tmp_path / path).ids == ["é", "特", 3, "", "e", "f"]
    assert not [*(tmp_path / "elsewhere").iterdir()]


def test_a_file_where_the_directory_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"expected a directory in .*file, got a file$"):
        started(tmp_path / "file")


def test_an_extraction_that_fails_lets_others_write(tmp_path: Path) -> None:
    model, store = torch.nn.Sequential(torch.nn.Linear(3, 2)).double(), started(tmp_path)

    def broken():
        yield X[:2]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        extract_features(model, broken(), layers=["0"], pool="mean", store=store)
    assert store.done == 2
    again = started(tmp_path)
    extract_features(model, X.split(2), layers=["0"], pool="mean", store=again)
    assert again.done == 6
