"""Runs that are killed by SIGKILL and then resumed; `test_kill.py` starts this as a process.

It imports torch once and forks a process for each run.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from structure_reg import FeatureStore, extract_features, merge_stores
from structure_reg.features import merge
from structure_reg.features import store as store_file

WRITES = {"store.py", "manifest.py", "tensor_file.py", "merge.py", "files.py", "lock.py"}
Work = Callable[[Path], None]


def extract(path: Path) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.Linear(5, 3))
    batches = torch.randn(24, 6).split(4)
    store = FeatureStore.create(path, range(24), model="tiny")
    extract_features(encoder, batches, layers=["0", "2"], pool="mean", store=store)


def make_shards(directory: Path) -> None:
    for rank in range(2):
        rows = range(rank, 24, 2)
        store = FeatureStore.create(directory / f"{rank}", range(24), rows=rows, model="tiny")
        store.append({"a": torch.randn(12, 4), "b": torch.randn(12, 2)})


def merge_two(path: Path) -> None:
    merge_stores(path, [path.parent / "shards/0", path.parent / "shards/1"])


def die_at(line: int) -> None:
    """Kill this process once it has executed `line` lines of the files that write."""
    lines = 0

    def trace(frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal lines
        if Path(frame.f_code.co_filename).name not in WRITES:
            return None
        lines += event == "line"
        if lines == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def finishes(work: Work, path: Path, line: int | None = None, seconds: float | None = None) -> bool:
    """Run in a separate process, killed at a line or after a time; return whether it finished."""
    pid = os.fork()
    if pid == 0:
        try:
            if line is not None:
                die_at(line)
            work(path)
        except BaseException as error:
            sys.stderr.write(f"{work.__name__}, after a kill: {error!r}\n")
            os._exit(1)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    if status not in (0, signal.SIGKILL):
        sys.exit(1)
    return status == 0


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def count_kills(work: Work, directory: Path, every: int, chains: int) -> int:
    """Kill at every `every`-th line, then in chains at random times; compare the stores."""
    start = time.monotonic()
    finishes(work, directory / "whole")
    took, expected = time.monotonic() - start, contents(directory / "whole")
    killed, ended = 0, False
    while not ended:
        path = directory / f"line{killed}"
        ended = finishes(work, path, line=1 + killed * every)
        finishes(work, path)
        if contents(path) != expected:
            sys.exit(f"{work.__name__}: other bytes after a kill at line {1 + killed * every}")
        shutil.rmtree(path)
        killed += not ended
    generator = random.Random(0)
    for chain in range(chains):
        path = directory / f"chain{chain}"
        while not finishes(work, path, seconds=generator.uniform(0.2, 1.2) * took):
            killed += 1
        if contents(path) != expected:
            sys.exit(f"{work.__name__}: other bytes after kills at random times")
    return killed


if __name__ == "__main__":
    torch.set_num_threads(1)
    # fsync guards against power cuts, which no test can cause: the kernel keeps a killed
    # process's writes.
    os.fsync = lambda _file: None
    store_file.COMMIT_SECONDS, merge.BLOCK_ROWS = 0, 5
    here, every, chains = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    make_shards(here / "merge/shards")
    kills = count_kills(extract, here / "extract", every, chains)
    kills += count_kills(merge_two, here / "merge", every, chains)
    sys.stdout.write(f"{kills}\n")
