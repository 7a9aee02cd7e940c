"""One batch over the processes of a group: rows are gathered with gradient, values are averaged.

Everything follows the convention of `DistributedDataParallel`: each process calls backward on its
own value, and the gradients of parameters are averaged over the processes afterwards. If the mean
of the processes' values is the loss of the whole batch, and gradients that cross processes are
summed, the averaged gradient is that of a single process with the whole batch.

``group=None`` means this process alone: every function returns its input and nothing is
communicated. No state is kept between calls. Attributes of `torch.distributed` are only looked up
inside functions, because some builds of PyTorch lack them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from structure_reg._checks import check_even_shapes, check_one_pair_of_widths
from structure_reg._precision import promote


def processes(group: Any) -> int:
    return 1 if group is None else dist.get_world_size(group)


def own_rows(n: int, group: Any) -> slice:
    """The position of this process's n rows among the gathered ones, which are in rank order."""
    start = 0 if group is None else n * dist.get_rank(group)
    return slice(start, start + n)


def least_rows(group: Any) -> int:
    """Rows that a process needs: 2, or 0 with a group.

    An empty last batch has to reach :func:`check_even`, where the other processes wait for it.
    """
    return 2 if group is None else 0


def check_even(function: str, group: Any, **tensors: Tensor | None) -> None:
    """Refuse, on every process, batches whose shapes differ between processes.

    Gathering uneven batches hangs or mixes up rows, so the shapes are gathered first: a few
    integers, in one collective. If the group has a CPU backend (gloo, or "cpu:gloo,cuda:nccl", the
    default of `init_process_group`), they travel through host memory and no GPU synchronises. With
    "nccl" alone, the host waits for the GPU once per call, because it has to read the numbers to
    raise an error. A compiled graph cannot read them and skips the check.
    """
    if group is None or torch.compiler.is_compiling():
        return
    shapes = [
        (0, 0) if t is None else (t.shape[0], math.prod(t.shape[1:])) for t in tensors.values()
    ]
    everywhere = _all_gather(torch.tensor([shapes], device=_host(group)), group)  # (W, tensors, 2)
    check_even_shapes(function, tuple(tensors), everywhere.tolist())


def widths_over_processes(function: str, widths: tuple[int, int], group: Any) -> tuple[int, int]:
    """The widths of x and y on every process that has pairs; (0, 0) stands for none."""
    everywhere = _all_gather(torch.tensor([widths], device=_host(group)), group).tolist()
    d_x, d_y = check_one_pair_of_widths(function, {tuple(of) for of in everywhere if any(of)})
    return d_x, d_y


def sum_over_processes(value: Tensor, group: Any) -> Tensor:
    """The sum on every process, without gradient; `value` is left as it is."""
    if group is None:
        return value
    total = value.clone()
    dist.all_reduce(total, group=group)
    return total


def _host(group: Any) -> str:
    """Device through which a few integers travel: the host, if the group has a backend for it."""
    backends = dist.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
    return "cpu" if "cpu" in backends else backends.partition(":")[0]


def gather_rows(x: Tensor, group: Any) -> Tensor:
    """The rows of all processes in rank order, (n, d) -> (W n, d), with gradient.

    The gradient of a process's rows is summed over processes. Half precision is sent as it is and
    promoted on arrival, so that this sum runs in float32.
    """
    if group is None:
        return x
    gathered: Tensor = _GatherRows.apply(x, group)  # type: ignore[no-untyped-call]
    return gathered


def gather_uneven_rows(x: Tensor, counts: Sequence[int], group: Any) -> Tensor:
    """The rows of all processes in rank order, of which each has its own number; no gradient."""
    everywhere = x.new_empty(sum(counts), *x.shape[1:])
    parts = torch.split(everywhere, list(counts))
    parts[dist.get_rank(group)].copy_(x)
    sent = [
        dist.broadcast(part, dist.get_global_rank(group, r), group=group, async_op=True)
        for r, part in enumerate(parts)
        if len(part)
    ]
    for work in sent:
        work.wait()
    return everywhere


def gather_ids(ids: Tensor | None, group: Any) -> Tensor | None:
    return ids if ids is None or group is None else _all_gather(ids, group)


def exchange(x: Tensor, group: Any) -> Tensor:
    """Send x[r] to process r and return what each sent to this one, (W, ...), with gradient."""
    if group is None:
        return x
    exchanged: Tensor = _Exchange.apply(x, group)  # type: ignore[no-untyped-call]
    return exchanged


def mean_over_processes(value: Tensor, group: Any) -> Tensor:
    """The mean on every process; its gradient goes to this process's value alone, as under DDP."""
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
        return exchange(grad, ctx.group), None  # an exchange is its own transpose


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
    """The collective on whole tensors; torch 2.13 renamed it and deprecates its old name."""
    old = {"all_gather": "all_gather_into_tensor", "reduce_scatter": "reduce_scatter_tensor"}
    return getattr(dist, f"{name}_single", None) or getattr(dist, old[name])
