"""PyTorch's global state during a fit, whatever the caller has set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from structure_reg._precision import full_precision

# Devices whose autocast may be on; others have no autocast or are not trained on.
KINDS = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_state() -> Iterator[None]:
    """Gradients on, autocast off, and new tensors in float32 on the CPU; put back at the end."""
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.enable_grad())
        for kind in KINDS:
            stack.enter_context(full_precision(torch.device(kind)))
        # Not get_default_device(), which in PyTorch 2.6 misses `with torch.device(...)`.
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield
