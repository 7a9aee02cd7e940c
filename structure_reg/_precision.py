"""The precision of every computation: at least float32, whatever the inputs and autocast say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")

WITHOUT_FLOAT64 = frozenset({"mps"})  # types of devices


def promote(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All tensors in their common dtype, float32 at least.

    Half precision is promoted *before* the first product: a Gram matrix rounded to bfloat16 puts
    3 to 16 % of error into the gradient, while rounding only the inputs puts 0.3 %.
    """
    dtype = result_dtype(*tensors)
    return tuple(tensor.to(dtype) for tensor in tensors)


def result_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of what is computed from the tensors: float64 if one of them is, else float32."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Turn autocast off for the device's type ("meta" has no autocast to turn off)."""
    # Not torch.amp.is_autocast_available, which PyTorch 2.6 cannot compile.
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def saveable(x: Tensor) -> Tensor:
    """x, or a copy outside inference mode of a tensor made in it: autograd saves no others."""
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or not x.is_inference():
        return x
    return x.clone()


def scalar_tensor(value: float | Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number, or a tensor of one element and any dtype, as a 0-d tensor."""
    if isinstance(value, Tensor):
        return saveable(value.to(device, dtype).reshape(()))
    return torch.full((), value, dtype=dtype, device=device)


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU for a device that has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def double(x: Tensor) -> Tensor:
    """x in float64, on the CPU if its device has no float64."""
    return x.to(float64_device(x.device)).double()


def needs_float64(function: Callable[P, R]) -> Callable[P, R]:
    """Compute a function on the CPU when its tensors are on a device that has no float64.

    What it returns goes back to that device, except float64. Other devices are left alone.
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        for x in tensors((args, kwargs)):
            if x.device.type in WITHOUT_FLOAT64:
                args, kwargs = moved((args, kwargs), float64_device(x.device))
                result: R = moved(function(*args, **kwargs), x.device)
                return result
        return function(*args, **kwargs)

    return computed


def tensors(tree: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple, dict)):
        for branch in tree.values() if isinstance(tree, dict) else tree:
            yield from tensors(branch)


def moved(tree: Any, device: torch.device) -> Any:
    """The same with its tensors and modules on the device; float64 stays where it is."""
    if isinstance(tree, Tensor):
        return tree if tree.dtype == torch.float64 else tree.to(device)
    if isinstance(tree, nn.Module):
        return tree.to(device)
    if isinstance(tree, dict):
        return {key: moved(branch, device) for key, branch in tree.items()}
    if isinstance(tree, (list, tuple)):
        branches = [moved(branch, device) for branch in tree]
        return type(tree)(*branches) if hasattr(tree, "_fields") else type(tree)(branches)
    return tree
