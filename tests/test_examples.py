"""Every example runs on the real features that are kept with it, cut short, from any folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from structure_reg import Aligner

ROOT = Path(__file__).parents[1]


def run(cwd: Path, script: str, *options: str) -> str:
    """Run a script of the repository from another folder; `options` are relative to that."""
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONWARNINGS": "error"}
    result = subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_one_call(tmp_path: Path) -> None:
    printed = run(tmp_path, "examples/one_call.py", "--output", "new/model")
    assert "image to text: R@1" in printed
    assert Aligner.load(tmp_path / "new/model").layers_


@pytest.mark.parametrize("image", ["image_dino", "image_effnet"])
def test_quickstart(image: str, tmp_path: Path) -> None:
    picture = tmp_path / "new" / "quickstart.png"
    short = ("--seeds", "2", "--steps", "2", "--output", "new/quickstart.png")
    printed = run(tmp_path, "examples/quickstart.py", "--image", image, *short)
    assert picture.stat().st_size > 10_000
    assert "selected" in printed
    assert "+ STRUCTURE" in printed
    assert "ridge" in printed


def test_quickstart_with_the_recommended_settings(tmp_path: Path) -> None:
    short = ("--shared", "--seeds", "1", "--steps", "2", "--output", "quickstart.png")
    printed = run(tmp_path, "examples/quickstart.py", *short)
    assert "has 40 effective neighbours in images and 40 in texts" in printed


def test_choose_layers(tmp_path: Path) -> None:
    features = os.path.relpath(ROOT / "examples/data/openclipart.safetensors", tmp_path)
    options = ("--features", features, "--permutations", "20", "--output", "layers.png")
    printed = run(tmp_path, "examples/choose_layers.py", *options)
    assert (tmp_path / "layers.png").stat().st_size > 10_000
    assert "gain over the last pair" in printed


def test_what_reads_stored_pairs_runs_from_any_folder(tmp_path: Path) -> None:
    printed = run(tmp_path, "examples/integrations/plain_loop.py", "--epochs", "1")
    assert "CLIP + STRUCTURE" in printed
    assert list(tmp_path.iterdir()) == []


def test_the_kept_features_are_those_described() -> None:
    kept = sum(file.stat().st_size for file in (ROOT / "examples/data").iterdir())
    assert kept <= 10_000_000
