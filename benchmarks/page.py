"""Run every benchmark and write what they print into docs/benchmarks.md.

    pip install pytorch-cka pytorch-metric-learning    # optional, for their rows
    python benchmarks/page.py

Half an hour on a quiet machine with two cores; a busy one bends the figures.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
PARTS = {
    "STRUCTURE": ["benchmarks/structure.py"],
    "Contrastive losses": ["benchmarks/contrastive.py"],
    "Mutual nearest neighbours of a grid of layers": ["benchmarks/neighbours.py"],
    "CKA of a grid of layers": ["benchmarks/cka_grid.py"],
    "Small batches with a bank of anchors": [
        "benchmarks/anchor_bank.py",
        "--plot",
        "docs/anchor_bank.png",
    ],
    "Start-up": ["benchmarks/startup.py"],
}


def processor() -> str:
    """Name of the processor: what Linux says of it, or else Python."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def printed(command: list[str]) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def main() -> None:
    page = [
        "# Benchmarks",
        "",
        "Printed by `python benchmarks/page.py`, forward and backward, float32, one thread: "
        f"{processor()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, {date.today():%B %Y}. Nothing has run on a GPU. Seconds "
        "are this machine's and ratios are of one run: compare the ratios. A floor is measured at "
        "another moment than the forms beside it, so that a form can seem to stand below it.",
        "",
    ]
    for title, command in PARTS.items():
        print(title, file=sys.stderr)
        body = printed(command)
        if "|--" not in body:  # plain text; a table is Markdown already
            body = f"```text\n{body}\n```"
        page += [f"## {title}", "", f"`python {' '.join(command)}`", "", body, ""]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(page))


main()
