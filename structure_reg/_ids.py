"""Ids of any kind as integers: what PyTorch can compare on a device."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Set
from datetime import date, datetime, time
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structure_reg._checks import (
    INTEGERS,
    check_id_dtype,
    check_id_values,
    check_one_axis,
    no_id_list,
)

Ids = Any  # a tensor of integers, or an array or list of anything hashable


def as_ids(function: str, device: torch.device, **ids: Ids) -> list[Tensor]:
    """Integers that are equal where the ids are, within each argument and across them.

    Integers keep their values, and tensors of them their device.
    """
    if all(isinstance(side, Tensor) and side.dtype in INTEGERS for side in ids.values()):
        return [as_column(side) for side in ids.values()]
    sides = [id_values(function, name, side) for name, side in ids.items()]
    if all(type(i) is int and -(2**63) <= i < 2**63 for values in sides for i in values):
        return [torch.tensor(values, dtype=torch.int64, device=device) for values in sides]
    numbers: dict[Hashable, int] = {}
    return [number(values, numbers).to(device) for values in sides]


def number(values: Iterable[Hashable], numbers: dict[Hashable, int]) -> Tensor:
    """Number values in order of first appearance, after those that `numbers` already has."""
    return torch.tensor([numbers.setdefault(i, len(numbers)) for i in values], dtype=torch.int64)


def id_values(function: str, name: str, ids: Ids) -> list[Any]:
    """Ids as Python values, in which equal ids are equal and have one hash."""
    if isinstance(ids, Tensor | np.ndarray) or hasattr(ids, "__array__"):
        if isinstance(ids, Tensor):
            check_id_dtype(function, name, ids)
        elif not isinstance(ids, np.ma.MaskedArray):  # np.asarray would drop the mask
            ids = np.asarray(ids)
        ids = as_column(ids)
        check_one_axis(function, name, ids.shape)
        ids = list(ids) if isinstance(ids, np.ndarray) and ids.dtype.kind in "mM" else ids.tolist()
    elif isinstance(ids, str | bytes | Mapping | Set) or not isinstance(ids, Iterable):
        raise no_id_list(function, name, ids)
    values = [python_value(i) for i in ids]
    check_id_values(function, name, values)
    return values


def as_column(ids: Any) -> Any:
    """A tensor or array of shape (n,), also from one of shape (n, 1)."""
    return ids[:, 0] if ids.ndim == 2 and ids.shape[1] == 1 else ids


def python_value(i: Any) -> Any:
    """One id, without the wrapping of PyTorch or NumPy; dates count as their midnight."""
    if isinstance(i, np.datetime64 | np.timedelta64):
        rounded = i.astype(f"{i.dtype.kind}8[us]")  # the resolution of Python
        i = rounded.item() if rounded == i or np.isnat(i) else i
    elif isinstance(i, Tensor | np.ndarray | np.generic) and prod(i.shape) == 1:
        i = i.item()
    elif isinstance(i, tuple):
        i = tuple(map(python_value, i))
    is_date = isinstance(i, date) and not isinstance(i, datetime)
    return datetime.combine(i, time()) if is_date else i
