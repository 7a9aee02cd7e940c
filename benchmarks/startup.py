"""Time of `import structure_reg` relative to `import torch`, in fresh processes.

    python benchmarks/startup.py

pip compiles the files that it installs, so "installed" is the time of an import for users. "From
source" is the first import of a checkout, or every import if PYTHONDONTWRITEBYTECODE is set. The
two take turns, and the script prints medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile

CHILD = """
import sys, time

start = time.perf_counter()
import torch
torch_took = time.perf_counter() - start
sys.pycache_prefix, sys.dont_write_bytecode = sys.argv[1], sys.argv[2] == "from source"
start = time.perf_counter()
import structure_reg
print(torch_took, time.perf_counter() - start)
"""


def seconds(bytecode: str, kind: str) -> tuple[float, float]:
    """Seconds of `import torch`, and of `import structure_reg` after it."""
    command = [sys.executable, "-c", CHILD, bytecode, kind]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    torch_took, ours_took = map(float, result.stdout.split())
    return torch_took, ours_took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    took: dict[str, list[float]] = {"torch": [], "installed": [], "from source": []}
    with tempfile.TemporaryDirectory() as compiled, tempfile.TemporaryDirectory() as empty:
        seconds(compiled, "installed")  # writes the bytecode that the rounds read
        for _ in range(rounds):
            for kind, bytecode in (("installed", compiled), ("from source", empty)):
                torch_took, ours_took = seconds(bytecode, kind)
                took["torch"].append(torch_took)
                took[kind].append(ours_took)
    medians = {kind: 1e3 * statistics.median(values) for kind, values in took.items()}
    print(f"medians of {rounds} rounds, Python {sys.version.split()[0]}")
    print(f"  import torch                     {medians['torch']:6.0f} ms")
    for kind in ("installed", "from source"):
        share = medians[kind] / medians["torch"]
        print(f"  and structure_reg, {kind:11}   {medians[kind]:6.0f} ms = {share:.2f} x")


main()
