"""What the processes of a fit tell each other besides rows: errors, decisions and weights.

``group=None`` means this process alone: nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch.distributed as dist
from torch import nn

from structure_reg._checks import check_choice, check_group
from structure_reg._distributed import processes
from structure_reg.training._checks import check_same, no_success

T = TypeVar("T")


def group_of(function: str, group: Any) -> Any:
    """The group that "world" or a group stands for; None for a single process."""
    if isinstance(group, str):
        check_choice(function, "group", group, ("world",))
        started = dist.is_available() and dist.is_initialized()
        group = dist.group.WORLD if started else None
    check_group(function, group)
    return None if processes(group) == 1 else group


def is_first(group: Any) -> bool:
    return rank_in(group) == 0


def rank_in(group: Any) -> int:
    return 0 if group is None else dist.get_rank(group)


def gathered(value: T, group: Any) -> list[T]:
    """The value of every process, in rank order."""
    if group is None:
        return [value]
    values: list[Any] = [None] * processes(group)
    dist.all_gather_object(values, value, group=group)
    return values


def of_first(value: T, group: Any) -> T:
    """The value of the first process: rounding on another machine may lead to another decision."""
    if group is None:
        return value
    values = [value if is_first(group) else None]
    dist.broadcast_object_list(values, dist.get_global_rank(group, 0), group=group)
    return values[0]  # type: ignore[return-value]


def together(local: Callable[[], T], group: Any) -> T:
    """What `local` returns here. An error on one process is raised on all: none waits for it."""
    if group is None:
        return local()
    error: Exception | None = None
    try:
        result = local()
    except Exception as raised:
        error = raised
    errors = gathered(None if error is None else (type(error).__name__, str(error)), group)
    for rank, found in enumerate(errors):
        if found is not None:
            raise no_success(rank, *found) from error
    return result


def agree(function: str, facts: Mapping[str, Any], group: Any) -> None:
    """Refuse, on every process, what has to be the same on all of them and is not."""
    everywhere = gathered(dict(facts), group)
    for name in facts:
        check_same(function, name, [of[name] for of in everywhere])


def weights_of_first(module: nn.Module, group: Any) -> None:
    """Set the parameters and buffers to those of the first process."""
    if group is None:
        return
    for weight in module.state_dict().values():
        sent = weight.contiguous()
        dist.broadcast(sent, dist.get_global_rank(group, 0), group=group)
        weight.copy_(sent)
