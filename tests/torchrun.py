"""An example in one process, or under torchrun in several."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from processes import LOOPBACK

EXAMPLES = Path(__file__).parents[1] / "examples"

# On loopback, whatever the name of the machine resolves to.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1")
STARTS = 3  # torchrun looks for a free port, which another process may take before it is used


def run(example: str, *options: str, processes: int = 1) -> str:
    """What the example prints; where it fails, the error shows what it wrote."""
    launcher = () if processes == 1 else (*TORCHRUN, f"--nproc-per-node={processes}")
    for _ in range(STARTS):
        done = subprocess.run(
            [sys.executable, *launcher, str(EXAMPLES / example), *options],
            env=os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(done.stderr)
