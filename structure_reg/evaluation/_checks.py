"""Every error of the evaluation functions, in the form of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from structure_reg._checks import (
    check_count,
    check_device,
    check_features,
    check_float_tensor,
    check_same_width,
)


def check_gallery(function: str, x: Any, y: Any) -> None:
    """Refuse sides of different widths or devices."""
    check_features(function, rows=1, x=x, y=y)
    check_same_width(function, x=x, y=y)
    check_device(function, "x and y", x, y)


def check_both_ids(function: str, ids: Any) -> None:
    if ids is None:
        raise ValueError(f"{function}: expected ids together with y_ids, got None")


def check_rows(function: str, name: str, rows: Any, width: int | None = None) -> None:
    """Refuse anything that is not a floating (n, d) tensor or array; only its shape is read."""
    shape = rows.shape
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{function}: expected {name} of shape (n, d) with n, d >= 1, got {tuple(shape)}"
        )
    if "float" not in getattr(rows.dtype, "name", str(rows.dtype)):
        raise TypeError(f"{function}: expected {name} of a floating dtype, got {rows.dtype}")
    if width is not None and shape[1] != width:
        raise ValueError(f"{function}: expected {name} with {width} columns, got {shape[1]}")


def check_at_most_rows(function: str, k: Any, name: str, rows: Any) -> None:
    """Refuse k above the number of rows to choose from."""
    check_count(function, "k", k)
    if k > rows.shape[0]:
        raise ValueError(f"{function}: expected k <= {rows.shape[0]}, the rows of {name}, got {k}")


def check_csls(function: str, csls: Any) -> None:
    if not isinstance(csls, tuple | list) or len(csls) != 2:
        raise TypeError(
            f"{function}: expected csls to be (x_bank, y_bank), got {type(csls).__name__}"
        )


def check_scaling(function: str, name: str, values: Any, n: int) -> None:
    if len(values) != n:
        raise ValueError(
            f"{function}: expected {name} with the local scaling of {n} rows, got {len(values)}"
        )


def check_classes(function: str, x: Any, classes: Any) -> None:
    """Refuse classes that differ from the samples in width or device."""
    check_features(function, rows=1, x=x, classes=classes)
    check_same_width(function, x=x, classes=classes)
    check_device(function, "x and classes", x, classes)


def check_labels(function: str, labels: Sequence[Any], samples: int, classes: int) -> None:
    """Refuse all but one index of a class per sample; on a GPU another one aborts the process."""
    if len(labels) != samples:
        raise ValueError(f"{function}: expected labels of shape ({samples},), got ({len(labels)},)")
    for row, label in enumerate(labels):
        if type(label) is not int:
            raise TypeError(
                f"{function}: expected labels to be indices of classes, got {label!r} in row {row}"
            )
        if not 0 <= label < classes:
            raise ValueError(
                f"{function}: expected labels in [0, {classes}), got {label} in row {row}"
            )


def check_prompts(function: str, prompts: Any) -> None:
    check_float_tensor(function, "prompts", prompts)
    if prompts.ndim != 3 or 0 in prompts.shape:
        raise ValueError(
            f"{function}: expected prompts of shape (classes, templates, d), "
            f"got {tuple(prompts.shape)}"
        )


def check_callable(function: str, name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{function}: expected {name} to be callable, got {type(value).__name__}")


def check_neighbours(function: str, k: Any, n: int) -> int:
    """Refuse k = n - 1, where every other row is a neighbour and none can change."""
    size = check_count(function, "k", k)
    if size > n - 2:
        raise ValueError(f"{function}: expected k <= n - 2, got k = {k}, n = {n}")
    return size


def check_ks(function: str, ks: Any) -> tuple[int, ...]:
    """Return the cut-offs as Python's integers."""
    if isinstance(ks, np.ndarray | Tensor) and ks.ndim == 1:
        ks = ks.tolist()
    if not isinstance(ks, Sequence) or isinstance(ks, str):
        raise TypeError(f"{function}: expected ks to be a list of integers, got {ks!r}")
    if not ks:
        raise ValueError(f"{function}: expected at least one cut-off in ks, got none")
    return tuple(check_count(function, "ks", k) for k in ks)
