"""Running an encoder: unwrapped, in eval mode, without gradient, and restored afterwards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DistributedDataParallel and torch.compile.

    Replicas of DataParallel share their hooks, and compiled code may skip them.
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch to eval mode without gradient, run compiled parts eagerly, restore all on exit.

    Compiled parts would not call their hooks. Autocast and inference mode of the caller are off
    inside: rows depend on the model alone, and may be trained on.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(mode=False))
            stack.enter_context(torch.no_grad())
            for kind in {"cpu", getattr(model_device(model), "type", "cpu")}:
                if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                    stack.enter_context(torch.autocast(kind, enabled=False))
            # Compiling a module imports dynamo. Importing it here would take longer than torch
            # itself.
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield
    finally:
        model.train(modes[model])  # for modules whose train() does more than set the flag
        for module, mode in modes.items():
            module.training = mode


def model_device(model: nn.Module) -> torch.device | None:
    """Return the device of the first tensor that is not on meta, where accelerate offloads to."""
    tensors = chain(model.parameters(), model.buffers())
    return next((tensor.device for tensor in tensors if not tensor.is_meta), None)


def to_device(batch: Any, device: torch.device | None) -> Any:
    """Move the tensors of a batch; mappings become dicts, tuples and lists become lists."""
    if isinstance(batch, Tensor):
        return batch if device is None else batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [to_device(value, device) for value in batch]
    return batch


def count_samples(batch: Any) -> int | None:
    """Return the length of the first axis of the first tensor in a batch."""
    if isinstance(batch, Tensor):
        return batch.shape[0] if batch.ndim else None
    if not isinstance(batch, Mapping | tuple | list):
        return None
    values = batch.values() if isinstance(batch, Mapping) else batch
    return next((n for value in values if (n := count_samples(value)) is not None), None)


def take_samples(batch: Any, samples: int, count: int) -> Any:
    """Return the first `count` of a batch's samples."""
    if isinstance(batch, Tensor):
        return batch[:count] if batch.ndim and len(batch) == samples else batch
    if isinstance(batch, Mapping):
        return {key: take_samples(value, samples, count) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        return [take_samples(value, samples, count) for value in batch]
    return batch


def call_model(function: Callable[..., Any], batch: Any, **options: Any) -> Any:
    """Pass a mapping by keyword, a tuple or list by position, and anything else as one argument."""
    args, kwargs = split_arguments(batch)
    return function(*args, **kwargs, **options)


def split_arguments(batch: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    if isinstance(batch, Mapping):
        return (), batch
    return (batch if isinstance(batch, tuple | list) else (batch,)), {}


def first_item(output: Any) -> Any:
    """Return the first item of a tuple or list, as layers return more than their features in."""
    # Not tuple | list, which PyTorch 2.6 cannot compile.
    return output[0] if isinstance(output, (tuple, list)) and output else output
