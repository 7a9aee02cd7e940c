"""Two processes train to the parameters, and measure the values, of one with the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import LOOPBACK
from torch import Tensor

pytestmark = pytest.mark.slow
for framework in ("accelerate", "lightning", "torchmetrics", "transformers"):
    pytest.importorskip(framework, reason="pip install '.[integrations]'")

import accelerate_loop  # noqa: E402
import hf_trainer  # noqa: E402
import lightning_module  # noqa: E402
import torchmetrics_ddp  # noqa: E402

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ONE: dict[str, Callable[[], Any]] = {
    "accelerate": lambda: accelerate_loop.train().state_dict(),
    "transformers": lambda: hf_trainer.train(batch=32).state_dict(),
    "torchmetrics": torchmetrics_ddp.evaluate,
    "lightning": lambda: lightning_module.train(devices=1).state_dict(),
}


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has at the end."""
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(ROOT), str(ROOT / "examples" / "integrations")])
    environment = {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(HERE / "two_processes.py"), str(folder)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning", "ignore:.*num_workers")
@pytest.mark.parametrize("framework", ONE)
def test_as_one_process(two: list[dict[str, Any]], framework: str) -> None:
    expected: dict[str, Tensor] = dict(ONE[framework]())
    if framework == "torchmetrics":
        del expected["CKA, copies counted"]
    for of_process in two:
        found = {name: of_process[framework][name] for name in expected}
        torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)


def test_the_copy_that_a_sampler_adds_would_be_seen(two: list[dict[str, Any]]) -> None:
    values = two[0]["torchmetrics"]
    assert abs(values["CKA, copies counted"] - values["CKA"]) > 1e-4
