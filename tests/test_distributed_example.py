"""The example under torchrun: DDP and FSDP2 on two processes train as one process does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from processes import LOOPBACK

EXAMPLE = Path(__file__).parents[1] / "examples" / "distributed.py"


def losses(*launcher: str) -> dict[str, list[str]]:
    """Lines of losses by the name in front of them."""
    printed = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLE)],
        env=os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        text=True,
        timeout=300,
    ).stdout
    by_name: dict[str, list[str]] = {}
    for name, line in (line.split(maxsplit=1) for line in printed.splitlines()):
        by_name.setdefault(name, []).append(line)
    return by_name


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="there FSDP2 needs a GPU")
def test_ddp_and_fsdp2_train_as_one_process_does():
    two = losses("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    one = losses()
    assert len(one["single"]) == 3
    assert two == {"ddp": one["single"], "fsdp2": one["single"]}
