"""An encoder at rest: eval mode, no gradient, on its own device, and left as it was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and torch.compile.

    Replicas of DataParallel share their hooks, and compiled code may have none.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradient; parts that were compiled run eagerly, so that hooks are called."""
    modes = {module: module.training for module in model.modules()}
    # Whoever compiled a module has imported this; importing it takes longer than torch itself.
    compiled = "torch._dynamo" in sys.modules
    try:
        model.eval()
        with (
            torch.no_grad(),
            torch.compiler.set_stance("force_eager") if compiled else nullcontext(),
        ):
            yield
    finally:
        model.train(modes[model])  # for modules whose train() does more than set the flag
        for module, mode in modes.items():
            module.training = mode


def device_of(model: nn.Module) -> torch.device | None:
    """Where the first tensor of a model is; parts that accelerate has put away are on meta."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors if not tensor.is_meta), None)


def moved(batch: Any, device: torch.device | None) -> Any:
    """A batch with its tensors on the device; mappings become dicts, sequences lists."""
    if isinstance(batch, Tensor):
        return batch if device is None else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [moved(value, device) for value in batch]
    return batch


def samples_of(batch: Any) -> int | None:
    """The first axis of the first tensor in a batch."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    values = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(batch, Mapping | tuple | list):
        return None
    return next((n for value in values if (n := samples_of(value)) is not None), None)


def called(function: Callable[..., Any], batch: Any, **options: Any) -> Any:
    """A mapping passes its items by keyword, a tuple or list in order, anything else itself."""
    if isinstance(batch, Mapping):
        return function(**batch, **options)
    if isinstance(batch, tuple | list):
        return function(*batch, **options)
    return function(batch, **options)
