"""Checks that more than one room shares: of kind, shape, device and option, never of values.

Every message reads ``{function}: expected {what}, got {what}``. A wrong kind of argument raises
TypeError; a wrong shape, device or option raises ValueError. Reading the values of a tensor would
make the host wait for the GPU, so NaN and inf pass through.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_float_tensor(function: str, name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{function}: expected {name} in float16, bfloat16, float32 or float64, got {x.dtype}"
        )


def check_features(function: str, *, rows: int = 2, **features: Any) -> None:
    """Refuse anything but floating tensors of shape (n, d) with n >= rows and d >= 1."""
    for name, x in features.items():
        check_float_tensor(function, name, x)
        if x.ndim != 2:
            raise ValueError(f"{function}: expected {name} of shape (n, d), got {tuple(x.shape)}")
        if x.shape[0] < rows or x.shape[1] < 1:
            raise ValueError(
                f"{function}: expected {name} with n >= {rows} rows and d >= 1 columns, "
                f"got shape {tuple(x.shape)}"
            )


def check_paired(function: str, *, rows: int = 2, **features: Any) -> None:
    """Refuse two feature tensors with different numbers of rows or on different devices."""
    check_features(function, rows=rows, **features)
    (x_name, x), (y_name, y) = features.items()
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{function}: expected {x_name} and {y_name} with the same number of rows, "
            f"got {x.shape[0]} and {y.shape[0]}"
        )
    check_device(function, f"{x_name} and {y_name}", x, y)


def check_layers(function: str, *, rows: int = 2, **sides: Any) -> None:
    """Refuse a side that is not a non-empty list or mapping of layers.

    All layers of all sides must have the same rows and be on one device.
    """
    tensors: list[Tensor] = []
    for name, layers in sides.items():
        if not isinstance(layers, Mapping | Sequence):
            raise TypeError(
                f"{function}: expected {name} to be a list of tensors or a mapping to them, "
                f"got {type(layers).__name__}"
            )
        if not layers:
            raise ValueError(f"{function}: expected {name} with at least one layer, got none")
        by_key = layers if isinstance(layers, Mapping) else dict(enumerate(layers))
        check_features(function, rows=rows, **{f"{name}[{l!r}]": x for l, x in by_key.items()})
        tensors += by_key.values()
    counts = sorted({x.shape[0] for x in tensors})
    if len(counts) > 1:
        raise ValueError(
            f"{function}: expected all layers with the same number of rows, "
            f"got {' and '.join(map(str, counts))}"
        )
    check_device(function, "all layers", *tensors)


def check_one_pair_of_widths(function: str, widths: set[tuple[int, ...]]) -> tuple[int, ...]:
    """Refuse pairs of different widths, or none at all, over the processes of a group."""
    if len(widths) != 1:
        got = " and ".join(map(str, sorted(widths))) or "no pairs"
        raise ValueError(
            f"{function}: expected pairs of the same widths (d_x, d_y) on every process, got {got}"
        )
    return next(iter(widths))


def check_same_width(function: str, **features: Tensor) -> None:
    widths = {name: x.shape[1] for name, x in features.items()}
    if len(set(widths.values())) > 1:
        names, got = " and ".join(widths), " and ".join(map(str, widths.values()))
        raise ValueError(f"{function}: expected {names} with the same columns, got {got}")


def check_width(function: str, name: str, x: Tensor, width: int, which: str) -> None:
    """Refuse any other number of columns; `which` explains it, as in "it was fitted on"."""
    if x.shape[1] != width:
        raise ValueError(
            f"{function}: expected {name} with the {width} columns {which}, got {x.shape[1]}"
        )


def check_device(function: str, names: str, *tensors: Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        got = " and ".join(sorted(map(str, devices)))
        raise ValueError(f"{function}: expected {names} on one device, got {got}")


def check_ids(function: str, ids: Any, x: Tensor, *, name: str = "ids") -> None:
    """Refuse ids that are not an integer tensor, one id per row of x, on the device of x.

    None means that all rows differ.
    """
    if ids is None:
        return
    if not isinstance(ids, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {type(ids).__name__}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{function}: expected {name} of an integer dtype, got {ids.dtype}")
    if ids.shape != x.shape[:1]:
        raise ValueError(
            f"{function}: expected {name} of shape ({x.shape[0]},), got {tuple(ids.shape)}"
        )
    check_device(function, f"{name} and features", ids, x)


def check_group(function: str, group: Any) -> None:
    """Refuse anything but None or a process group that this process belongs to."""
    if group is None:
        return
    available = torch.distributed.is_available()
    if not (available and isinstance(group, torch.distributed.ProcessGroup)):
        raise TypeError(
            f"{function}: expected group to be a torch.distributed.ProcessGroup that this process "
            f"belongs to, got {type(group).__name__}"
        )


def check_even_shapes(
    function: str, names: tuple[str, ...], shapes: Sequence[Sequence[Sequence[int]]]
) -> None:
    """Refuse shapes[process][tensor] = (rows, columns) that differ, or fewer than 2 rows in all."""
    for name, *of_processes in zip(names, *shapes, strict=True):
        different = sorted({tuple(shape) for shape in of_processes})
        if len(different) > 1:
            got = " and ".join(map(str, different))
            raise ValueError(
                f"{function}: expected {name} of the same (rows, columns) on every process, "
                f"got {got}; a data loader with drop_last=True keeps batches even"
            )
    total = sum(of_process[0][0] for of_process in shapes)
    if total < 2:
        raise ValueError(f"{function}: expected at least 2 rows over all processes, got {total}")


def check_number(
    function: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Refuse anything but a number within (above, below) and >= least. NaN and inf are refused."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{function}: expected {name} to be a number, got {type(value).__name__}")
    if not (above < float(value) < below and float(value) >= least):
        bounds = [f"{name} > {above:g}"] * (above > -math.inf)
        bounds += [f"{name} >= {least:g}"] * (least > -math.inf)
        bounds += [f"{name} < {below:g}"] * (below < math.inf)
        raise ValueError(
            f"{function}: expected {' and '.join(bounds) or f'a finite {name}'}, got {value}"
        )


def check_count(function: str, name: str, value: Any, *, least: int = 1) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{function}: expected {name} to be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{function}: expected {name} >= {least}, got {value}")


def check_flag(function: str, name: str, value: Any) -> bool:
    """Return a boolean as Python's; a string or a number would have a truth, but maybe no sense."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{function}: expected {name} to be a bool, got {type(value).__name__}")
    return bool(value)


def check_choice(function: str, name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: expected {name} to be a string, got {type(value).__name__}")
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{function}: expected {name} to be one of {listed}, got {value!r}")


def no_tqdm(function: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{function}: expected tqdm to be installed for progress=True, got none", name="tqdm"
    )
