"""Every example runs on the real features that are kept with it, cut short."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> str:
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONWARNINGS": "error"}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("image", ["image_dino", "image_effnet"])
def test_quickstart(image: str, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "quickstart.png"
    short = ("--seeds", "2", "--steps", "2", "--output", str(picture))
    printed = run("examples/quickstart.py", "--image", image, *short)
    assert picture.stat().st_size > 10_000
    assert "selected" in printed
    assert "+ STRUCTURE" in printed
    assert "ridge" in printed


def test_choose_layers(tmp_path: Path) -> None:
    picture = tmp_path / "layers.png"
    printed = run("examples/choose_layers.py", "--permutations", "20", "--output", str(picture))
    assert picture.stat().st_size > 10_000
    assert "gain over the last pair" in printed


def test_the_kept_features_are_those_described() -> None:
    kept = sum(file.stat().st_size for file in (ROOT / "examples/data").iterdir())
    assert kept <= 10_000_000
