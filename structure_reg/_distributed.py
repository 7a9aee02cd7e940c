"""One batch over the processes of a group: rows gathered with gradient, values averaged.

Everything follows from one convention, that of `DistributedDataParallel`: each process calls
backward on its own value, and gradients of parameters are averaged over the processes afterwards.
If the mean of the processes' values is the loss of the whole batch, and gradients that cross
processes are summed, the averaged gradient is the one of a single process with the whole batch.

``group=None`` is this process alone: nothing here runs and nothing is communicated. Nothing is
kept between calls. `torch.distributed` is touched inside functions only, for the builds without it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from structure_reg._checks import check_even_shapes
from structure_reg._precision import promote


def processes(group: Any) -> int:
    return 1 if group is None else dist.get_world_size(group)


def own_rows(n: int, group: Any) -> slice:
    """Where this process's n rows stand among the gathered ones: by rank in the group."""
    start = 0 if group is None else n * dist.get_rank(group)
    return slice(start, start + n)


def check_even(function: str, group: Any, **tensors: Tensor | None) -> None:
    """Refuse, on every process, batches whose shapes differ between processes.

    Gathering uneven batches hangs or mixes rows up, so the shapes go round first: a few integers,
    in one collective. They travel through host memory where the group can (gloo, or "cpu:gloo,
    cuda:nccl", what `init_process_group` makes by default), and no GPU waits. Through "nccl" alone
    the host has to wait for the GPU once a call: without reading the numbers nothing can be raised.
    A compiled graph cannot read them either and goes without the check.
    """
    if group is None or torch.compiler.is_compiling():
        return
    shapes = [
        (0, 0) if t is None else (t.shape[0], math.prod(t.shape[1:])) for t in tensors.values()
    ]
    backends = dist.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
    device = "cpu" if "cpu" in backends else backends.partition(":")[0]
    everywhere = _all_gather(torch.tensor([shapes], device=device), group)  # (W, tensors, 2)
    check_even_shapes(function, tuple(tensors), everywhere.tolist())


def gather_rows(x: Tensor, group: Any) -> Tensor:
    """The rows of all processes in order of rank, (n, d) -> (W n, d), with gradient.

    The gradient of a process's rows is the sum over processes. Half precision travels as it is and
    is promoted on arrival, so that this sum runs in float32.
    """
    if group is None:
        return x
    gathered: Tensor = _GatherRows.apply(x, group)  # type: ignore[no-untyped-call]
    return gathered


def gather_ids(ids: Tensor | None, group: Any) -> Tensor | None:
    return ids if ids is None or group is None else _all_gather(ids, group)


def exchange(x: Tensor, group: Any) -> Tensor:
    """Send x[r] to process r and return what all sent here, (W, ...) -> (W, ...), with gradient."""
    if group is None:
        return x
    exchanged: Tensor = _Exchange.apply(x, group)  # type: ignore[no-untyped-call]
    return exchanged


def mean_over_processes(value: Tensor, group: Any) -> Tensor:
    """The mean on every process, whose gradient goes to the own value alone, as under DDP."""
    if group is None:
        return value
    mean: Tensor = _MeanOverProcesses.apply(value, group)  # type: ignore[no-untyped-call]
    return mean


class _GatherRows(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.shape, ctx.dtype = group, x.shape, x.dtype
        (gathered,) = promote(_all_gather(x, group))
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        own = grad.new_empty(ctx.shape)
        _collective("reduce_scatter")(own, grad.contiguous(), group=ctx.group)
        return own.to(ctx.dtype), None


class _Exchange(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        dist.all_to_all_single(received, x.contiguous(), group=group)
        return received

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return exchange(grad, ctx.group), None  # the exchange is its own transpose


class _MeanOverProcesses(Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:  # noqa: ARG004
        mean = value / processes(group)
        dist.all_reduce(mean, group=group)
        return mean

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad, None


def _all_gather(x: Tensor, group: Any) -> Tensor:
    gathered = x.new_empty((processes(group) * len(x), *x.shape[1:]))
    _collective("all_gather")(gathered, x.contiguous(), group=group)
    return gathered


def _collective(name: str) -> Any:
    """The form on whole tensors, which torch 2.13 renamed and warns about under its old name."""
    old = {"all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}
    return getattr(dist, f"{name}_single", None) or getattr(dist, old[name])
