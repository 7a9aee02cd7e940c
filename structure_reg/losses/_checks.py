"""Every error of the losses, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._checks import (
    check_device,
    check_float_tensor,
    check_number,
    check_paired,
    check_same_width,
)


def check_scalar(function: str, name: str, value: Any) -> None:
    """Accept a finite number, or a floating tensor of one element, whose value is not read."""
    if isinstance(value, Tensor):
        check_float_tensor(function, name, value)
        if value.numel() != 1:
            raise ValueError(
                f"{function}: expected {name} to have one element, got shape {tuple(value.shape)}"
            )
    else:
        check_number(function, name, value)


def check_square(function: str, name: str, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"{function}: expected {name} of shape (n, n), got {tuple(x.shape)}")


def check_same_shape(function: str, **tensors: Any) -> None:
    """Refuse tensors of different shapes or devices, or without a last axis."""
    for name, x in tensors.items():
        check_float_tensor(function, name, x)
    names = " and ".join(tensors)
    shapes = [tuple(x.shape) for x in tensors.values()]
    if len(set(shapes)) > 1 or not shapes[0]:
        got = " and ".join(map(str, shapes))
        raise ValueError(f"{function}: expected {names} of one shape (..., n), got {got}")
    check_device(function, names, *tensors.values())


def check_group(function: str, group: Any) -> None:
    """Refuse what is not a process group that this process belongs to; None means no group."""
    if group is None:
        return
    available = torch.distributed.is_available()
    if not (available and isinstance(group, torch.distributed.ProcessGroup)):
        raise TypeError(
            f"{function}: expected group to be a torch.distributed.ProcessGroup that this process "
            f"belongs to, got {type(group).__name__}"
        )


def no_temperature(function: str, perplexity: float, nearest: float) -> ValueError:
    return ValueError(
        f"{function}: expected rows that some temperature gives a perplexity of {perplexity:g}, "
        f"got rows whose nearest is {nearest:g}, because too many of them are equal"
    )


def check_anchors(function: str, anchors: Any, **features: Any) -> None:
    """Refuse anchors that are not two paired tensors as wide as the features beside them."""
    if anchors is None:
        return
    if not isinstance(features["frozen"], Tensor):
        raise ValueError(  # noqa: TRY004 - of two arguments that fight, neither is of a wrong kind
            f"{function}: expected anchors=None beside prepared frozen features, got anchors; "
            "prepare the two together"
        )
    if not isinstance(anchors, tuple) or len(anchors) != 2:
        raise TypeError(
            f"{function}: expected anchors to be a pair (frozen, aligned) of tensors, "
            f"got {type(anchors).__name__}"
        )
    names = [f"anchors[{i}]" for i in range(2)]
    check_paired(function, rows=0, **dict(zip(names, anchors, strict=True)))
    for (name, x), anchor_name, anchor in zip(features.items(), names, anchors, strict=True):
        check_same_width(function, **{name: x, anchor_name: anchor})
        check_device(function, f"{name} and {anchor_name}", x, anchor)


def check_prepared(
    function: str, prepared: Any, aligned: Tensor, temperature: float, levels: int, centering: str
) -> None:
    """Refuse a FrozenStructure of other options, rows, device or dtype than the call's."""
    options = {"temperature": temperature, "levels": levels, "centering": centering}
    for name, value in options.items():
        made_with = getattr(prepared, name)
        if value != made_with:
            raise ValueError(
                f"{function}: expected {name}={made_with!r}, as frozen was prepared, got {value!r}"
            )
    if len(aligned) != len(prepared):
        raise ValueError(
            f"{function}: expected frozen and aligned with the same number of rows, "
            f"got {len(prepared)} and {len(aligned)}"
        )
    check_device(function, "frozen and aligned", prepared.walks[0], aligned)
    dtype = prepared.walks[0].dtype
    if torch.promote_types(dtype, aligned.dtype) != dtype:
        raise TypeError(
            f"{function}: expected aligned no wider than the {dtype} that frozen was prepared in, "
            f"got {aligned.dtype}"
        )
