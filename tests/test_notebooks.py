"""Every notebook is valid, short of output, and runs from top to bottom in a fresh process."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/notebooks"
NOTEBOOKS = {path.name: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.ipynb"))}
COLAB = re.compile(
    r"https://colab\.research\.google\.com/github/([\w-]+/[\w.-]+)/blob/main/(\S+)\)"
)
CLONE = re.compile(r"git clone --depth 1 https://github\.com/([\w-]+/[\w.-]+)")

each_notebook = pytest.mark.parametrize("name", NOTEBOOKS)


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def installs(cell: dict[str, Any]) -> bool:
    """Whether the cell prepares Colab: a checkout has all of it, so the tests skip it."""
    return "install" in cell["metadata"].get("tags", [])


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def script(name: str) -> str:
    """The code of a notebook but its install cell; a traceback names the cell's id."""
    cells = [cell for cell in code_cells(name) if not installs(cell)]
    return "".join(f"# %% {cell['id']}\n{source(cell)}\n\n" for cell in cells)


def test_there_are_four() -> None:
    assert len(NOTEBOOKS) == 4


@each_notebook
def test_it_follows_version_4_5_of_the_format(name: str) -> None:
    notebook = NOTEBOOKS[name]
    assert notebook.keys() == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"].keys() >= {"name", "display_name"}
    fields = {"id", "cell_type", "metadata", "source"}
    for cell in notebook["cells"]:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell["cell_type"] in {"markdown", "code"}
        assert cell.keys() == fields | code
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", cell["id"])
        assert all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        assert source(cell).strip()
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))


@each_notebook
def test_no_output_is_stored(name: str) -> None:
    for cell in code_cells(name):
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
    assert (FOLDER / name).stat().st_size < 40_000


@each_notebook
def test_only_the_first_code_cell_installs(name: str) -> None:
    first, *others = code_cells(name)
    assert installs(first)
    assert not any(installs(cell) for cell in others)
    assert not re.search(r"^\s*[%!]", script(name), re.MULTILINE)


@each_notebook
def test_the_install_cell_does_nothing_in_a_checkout(name: str, tmp_path: Path) -> None:
    """Its shell lines, written as calls of `shell` here, run only where the data are missing."""
    shell = re.sub(r"^(\s+)[!%](.+)$", r"\1print('ran')", source(code_cells(name)[0]), flags=re.M)
    for folder, ran in ((FOLDER, 0), (ROOT, 0), (tmp_path, 3)):
        result = subprocess.run(
            [sys.executable, "-c", shell], cwd=folder, capture_output=True, text=True, check=True
        )
        assert result.stdout.split() == ["ran"] * ran


@each_notebook
def test_badge_and_clone_name_one_repository(name: str) -> None:
    """The one that pyproject.toml names; OWNER stands for its owner until one is named there."""
    title, *_ = NOTEBOOKS[name]["cells"]
    (badge,) = COLAB.findall(source(title))
    (cloned,) = CLONE.findall(source(code_cells(name)[0]))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    url = project.get("urls", {}).get("Repository", "https://github.com/OWNER/structure-reg")
    assert url == f"https://github.com/{cloned}"
    assert badge == (cloned, f"examples/notebooks/{name}")


@each_notebook
def test_every_link_to_a_file_has_its_end(name: str) -> None:
    for cell in NOTEBOOKS[name]["cells"]:
        if cell["cell_type"] == "markdown":
            for path in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", source(cell)):
                assert (FOLDER / path).exists(), path


@pytest.mark.slow
@each_notebook
def test_it_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.py"
    path.write_text(script(name))
    environment = {
        **os.environ,
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error",
    }
    before = set(FOLDER.iterdir())
    result = subprocess.run(
        [sys.executable, path],
        cwd=FOLDER,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert " %" in result.stdout  # each reports a recall
    assert set(FOLDER.iterdir()) == before
