"""Run every benchmark and write the output to docs/benchmarks.md.

    pip install cca-zoo pytorch-cka pytorch-metric-learning scikit-learn    # optional: their rows
    python benchmarks/page.py

This takes half an hour on an idle machine with two cores; other load distorts the figures.
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
    "Search in a gallery": ["benchmarks/search.py"],
    "Fits and retrieval": ["benchmarks/size.py"],
    "Fits and retrieval by rows and width": ["benchmarks/size.py", "--curves"],
    "Import time": ["benchmarks/startup.py"],
}


def processor() -> str:
    """Name of the processor according to Linux or, failing that, Python."""
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
        "# Speed and memory benchmarks",
        "",
        "This page is the output of `python benchmarks/page.py`. The losses were timed forward and "
        "backward, in float32, on one thread. The machine: "
        f"{processor()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"PyTorch {torch.__version__}, {date.today():%B %Y}. Nothing has run on a GPU. The times "
        "are specific to this machine and the ratios come from one run, so compare the ratios. A "
        "floor is the time of the operations that no implementation can avoid. It is measured at a "
        "different moment than the implementations, so one of them can appear to be below it.",
        "",
    ]
    for title, command in PARTS.items():
        print(title, file=sys.stderr)
        body = printed(command)
        if "|--" not in body:  # plain text; tables are Markdown already
            body = f"```text\n{body}\n```"
        page += [f"## {title}", "", f"`python {' '.join(command)}`", "", body, ""]
    (ROOT / "docs/benchmarks.md").write_text("\n".join(page))


main()
