"""A run that is killed at any point, even repeatedly, resumes to the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX")


def kills(tmp_path: Path, *, every: int, chains: int) -> int:
    """Return how many processes were killed; the script checks the bytes of each resumed store."""
    script = Path(__file__).with_name("killed_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(every), str(chains)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@posix
def test_a_killed_run_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    assert kills(tmp_path, every=151, chains=1) > 10


@posix
@pytest.mark.slow
def test_kills_all_over_the_code_that_writes(tmp_path: Path) -> None:
    assert kills(tmp_path, every=23, chains=4) > 100
