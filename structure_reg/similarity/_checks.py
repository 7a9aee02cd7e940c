"""Errors of the similarities, worded as in :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_count, check_device, check_number


def check_row_mask(function: str, mask: Any, x: Tensor) -> None:
    """Refuse a mask that is not a bool (n,) tensor on the device of x; None keeps all rows."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{function}: expected mask to be a bool tensor, got {got}")
    if mask.shape != x.shape[:1]:
        raise ValueError(
            f"{function}: expected mask of shape ({x.shape[0]},), got {tuple(mask.shape)}"
        )
    check_device(function, "mask and features", mask, x)


def check_k_or_rule(function: str, k: Any, rules: Collection[str]) -> None:
    """Refuse k that is not None, the name of a rule, or an integer of at least 1."""
    if isinstance(k, str):
        check_choice(function, "k", k, rules)
    elif k is not None:
        check_count(function, "k", k)


def check_k_below_rows(function: str, k: int, n: int) -> None:
    if k >= n:
        raise ValueError(
            f"{function}: expected k < n because a row is not its own neighbour, "
            f"got k = {k}, n = {n}"
        )


def check_share_or_count(function: str, name: str, value: Any) -> float | int:
    """Refuse a value that is neither an integer of at least 1 nor a float in (0, 1]."""
    if isinstance(value, Integral):
        return check_count(function, name, value)
    share = check_number(function, name, value, above=0.0)
    if share > 1:
        raise ValueError(
            f"{function}: expected {name} to be a share of at most 1.0 or an integer, got {value}"
        )
    return share
