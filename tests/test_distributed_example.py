"""The examples under torchrun: two processes train and fit as one process does."""

from pathlib import Path

import pytest
import torch
from torchrun import run

import structure_reg as sr


def losses(processes: int) -> dict[str, list[str]]:
    """Lines of losses by the name in front of them."""
    by_name: dict[str, list[str]] = {}
    lines = run("distributed.py", processes=processes).splitlines()
    for name, line in (line.split(maxsplit=1) for line in lines):
        by_name.setdefault(name, []).append(line)
    return by_name


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith("2.6."), reason="there FSDP2 needs a GPU")
def test_ddp_and_fsdp2_train_as_one_process_does():
    two, one = losses(2), losses(1)
    assert len(one["single"]) == 3
    assert two == {"ddp": one["single"], "fsdp2": one["single"]}


@pytest.mark.slow
def test_shards_of_two_processes_give_the_heads_of_one(tmp_path: Path):
    heads = []
    for processes in (1, 2):
        path = tmp_path / "new" / f"{processes}.safetensors"
        printed = run("sharded_fit.py", "--epochs", "5", "--output", str(path), processes=processes)
        assert printed.startswith("recall on 447 unseen pairs: 0.")
        heads.append([side.head.weight for side in sr.Aligner.load(path).modules_])
    for of_one, of_two in zip(*heads, strict=True):
        torch.testing.assert_close(of_one, of_two, rtol=0.0, atol=1e-5)
