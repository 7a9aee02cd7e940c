"""The errors of the losses, worded as in :mod:`structure_reg._checks`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._checks import (
    check_device,
    check_features,
    check_float_tensor,
    check_group,
    check_ids,
    check_number,
    check_paired,
    check_same_width,
)
from structure_reg._distributed import check_even, least_rows
from structure_reg._kernels.options import WalkOptions


def check_square(function: str, name: str, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[0] != x.shape[1]:
        raise ValueError(f"{function}: expected {name} of shape (n, n), got {tuple(x.shape)}")


def check_same_shape(function: str, **tensors: Any) -> None:
    """Refuse anything but floating tensors of one shape (..., n) on one device."""
    for name, x in tensors.items():
        check_float_tensor(function, name, x)
    names = " and ".join(tensors)
    shapes = [tuple(x.shape) for x in tensors.values()]
    if len(set(shapes)) > 1 or not shapes[0]:
        got = " and ".join(map(str, shapes))
        raise ValueError(f"{function}: expected {names} of one shape (..., n), got {got}")
    check_device(function, names, *tensors.values())


def check_scalar(function: str, name: str, value: Any) -> None:
    """Refuse anything but a finite number or a floating tensor of one element (value not read)."""
    if isinstance(value, Tensor):
        check_float_tensor(function, name, value)
        if value.numel() != 1:
            raise ValueError(
                f"{function}: expected {name} to have one element, got shape {tuple(value.shape)}"
            )
    else:
        check_number(function, name, value)


def check_pairs(function: str, x: Any, y: Any, ids: Any, group: Any) -> None:
    """Refuse features, ids or a group that a contrastive loss cannot use together."""
    check_group(function, group)
    check_paired(function, rows=least_rows(group), x=x, y=y)
    check_same_width(function, x=x, y=y)
    check_ids(function, ids, x)
    check_even(function, group, x=x, y=y, ids=ids)


def check_unpaired(
    function: str, x: Any, y: Any, teacher_x: Any, teacher_y: Any, group: Any
) -> None:
    """Refuse features of two unpaired sides, or the teacher's, that do not fit together."""
    check_group(function, group)
    rows = least_rows(group)
    check_paired(function, rows=rows, x=x, teacher_x=teacher_x)
    check_paired(function, rows=rows, y=y, teacher_y=teacher_y)
    check_same_width(function, x=x, y=y)
    check_same_width(function, teacher_x=teacher_x, teacher_y=teacher_y)
    check_device(function, "x and y", x, y)
    check_even(function, group, x=x, y=y, teacher_x=teacher_x, teacher_y=teacher_y)
    check_features(function, rows=1, y=y)  # no process has any: the shapes are even


def check_anchors(function: str, anchors: Any, **features: Any) -> None:
    """Refuse anchors that are not a pair of tensors with equal rows, as wide as the features."""
    if anchors is None:
        return
    if not isinstance(features["frozen"], Tensor):
        raise ValueError(  # noqa: TRY004 - the two arguments conflict, neither has a wrong kind
            f"{function}: expected anchors=None with a FrozenStructure, got anchors; prepare the "
            "FrozenStructure from the batch and the anchors together"
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
    function: str, prepared: Any, aligned: Tensor, options: WalkOptions, centering: str
) -> None:
    """Refuse a FrozenStructure whose options, rows, device or dtype do not fit the call."""
    for name, value in (
        ("temperature", options.temperature),
        ("levels", options.levels),
        ("centering", centering),
    ):
        expected = getattr(prepared, name)
        if value != expected:
            raise ValueError(
                f"{function}: expected {name}={expected!r}, as frozen was prepared, got {value!r}"
            )
    if len(aligned) != len(prepared):
        raise ValueError(
            f"{function}: expected frozen and aligned with the same number of rows, "
            f"got {len(prepared)} and {len(aligned)}"
        )
    y = prepared.walks.y
    check_device(function, "frozen and aligned", y, aligned)
    if torch.promote_types(y.dtype, aligned.dtype) != y.dtype:
        raise TypeError(
            f"{function}: expected aligned no wider than the {y.dtype} that frozen was prepared "
            f"in, got {aligned.dtype}"
        )


def no_temperature(function: str, perplexity: float, nearest: float) -> ValueError:
    return ValueError(
        f"{function}: expected rows that some temperature gives a perplexity of {perplexity:g}, "
        f"got rows whose nearest is {nearest:g}, because too many of them are equal"
    )
