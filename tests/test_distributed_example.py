"""The example under torchrun: DDP and FSDP2 on two processes train as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import LOOPBACK

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"


# On loopback, whatever the name of the machine resolves to.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1")
STARTS = 3  # torchrun looks for a free port, which another process may take before it is used


def run(*launcher: str) -> str:
    """What the example prints; where it fails, the error shows what it wrote."""
    for _ in range(STARTS):
        done = subprocess.run(
            [sys.executable, *launcher, str(EXAMPLE)],
            env=os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode == 0:
            return done.stdout
    raise AssertionError(done.stderr)


def losses(*launcher: str) -> dict[str, list[str]]:
    """Lines of losses by the name in front of them."""
    by_name: dict[str, list[str]] = {}
    for name, line in (line.split(maxsplit=1) for line in run(*launcher).splitlines()):
        by_name.setdefault(name, []).append(line)
    return by_name


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="there FSDP2 needs a GPU")
def test_ddp_and_fsdp2_train_as_one_process_does():
    two = losses(*TORCHRUN, "--nproc-per-node=2")
    one = losses()
    assert len(one["single"]) == 3
    assert two == {"ddp": one["single"], "fsdp2": one["single"]}
