"""Every error a user can meet: kind, shape, device and option, never a value inside a tensor.

One voice: ``{function}: expected {what}, got {what}``. TypeError for the wrong kind of thing,
ValueError for the wrong shape, device or option. Reading a tensor's values would make the GPU wait
for the host, so NaN and inf pass through.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_features(function: str, *, rows: int = 2, **features: Any) -> None:
    """Refuse anything that is not a floating (n, d) tensor with n >= rows and d >= 1."""
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
    """Refuse two feature tensors that do not have the same rows on the same device."""
    check_features(function, rows=rows, **features)
    (x_name, x), (y_name, y) = features.items()
    if x.shape[0] != y.shape[0]:
        raise ValueError(
            f"{function}: expected {x_name} and {y_name} with the same number of rows, "
            f"got {x.shape[0]} and {y.shape[0]}"
        )
    check_device(function, f"{x_name} and {y_name}", x, y)


def check_float_tensor(function: str, name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {type(x).__name__}")
    if x.dtype not in FLOATS:
        raise TypeError(
            f"{function}: expected {name} in float16, bfloat16, float32 or float64, got {x.dtype}"
        )


def check_device(function: str, names: str, *tensors: Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        got = " and ".join(sorted(map(str, devices)))
        raise ValueError(f"{function}: expected {names} on one device, got {got}")


def check_ids(function: str, ids: Any, x: Tensor, *, name: str = "ids") -> None:
    """Refuse ids that are not an integer (n,) tensor beside x; None means all rows differ."""
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


def check_gallery(function: str, x: Any, y: Any, ids: Any, y_ids: Any) -> None:
    """Refuse sides of different width, and ids that do not tell which rows belong together."""
    check_features(function, rows=1, x=x, y=y)
    check_same_width(function, x=x, y=y)
    check_device(function, "x and y", x, y)
    check_ids(function, ids, x)
    if y_ids is None:
        check_paired(function, rows=1, x=x, y=y)
    elif ids is None:
        raise ValueError(f"{function}: expected ids beside y_ids, got None")
    else:
        check_ids(function, y_ids, y, name="y_ids")


def check_classes(function: str, x: Any, classes: Any, labels: Any) -> None:
    """Refuse classes of another width than the samples, and labels that are not one a sample."""
    check_features(function, rows=1, x=x, classes=classes)
    check_same_width(function, x=x, classes=classes)
    check_device(function, "x and classes", x, classes)
    if labels is None:
        raise TypeError(f"{function}: expected labels to be a tensor, got NoneType")
    check_ids(function, labels, x, name="labels")


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


def check_kept_neighbours(function: str, k: Any, n: int) -> None:
    """Refuse k for which all other rows are neighbours, so that none can be lost."""
    check_count(function, "k", k)
    if k > n - 2:
        raise ValueError(f"{function}: expected k <= n - 2, got k = {k}, n = {n}")


def check_ks(function: str, ks: Any) -> None:
    if not isinstance(ks, Sequence) or isinstance(ks, str):
        raise TypeError(f"{function}: expected ks to be a list of integers, got {ks!r}")
    if not ks:
        raise ValueError(f"{function}: expected ks with at least one cut-off, got none")
    for k in ks:
        check_count(function, "ks", k)


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


def check_number(
    function: str,
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Refuse a number outside (above, below), or under least. NaN and inf are always outside."""
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


def check_at_most(function: str, name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{function}: expected {name} <= {most}, got {value}")


def check_dim(function: str, dim: Any, n: int, d_x: int, d_y: int) -> int:
    """Refuse more directions than n pairs of these widths have; None is all of them."""
    most = min(n - 1, d_x, d_y)
    if dim is None:
        return most
    check_count(function, "dim", dim)
    if dim > most:
        raise ValueError(
            f"{function}: expected dim <= {most}, the least of n - 1 and both widths, got {dim}"
        )
    return int(dim)


def check_heads(function: str, heads: Sequence[Any], kinds: Mapping[str, type]) -> None:
    if not heads:
        raise ValueError(f"{function}: expected one head at the least, got none")
    for head in heads:
        if type(head) not in kinds.values():
            raise TypeError(
                f"{function}: expected heads that are {', '.join(kinds)}, "
                f"got {type(head).__name__}; for a module of your own use "
                "safetensors.torch.save_model"
            )


def check_choice(function: str, name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: expected {name} to be a string, got {type(value).__name__}")
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{function}: expected {name} to be one of {listed}, got {value!r}")


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


def check_no_group(function: str, group: Any) -> None:
    if group is not None:
        raise NotImplementedError(
            f"{function}: expected group=None, the batch of this process alone; "
            "a batch that spans processes is not supported yet"
        )


def check_same_width(function: str, **features: Tensor) -> None:
    widths = {name: x.shape[1] for name, x in features.items()}
    if len(set(widths.values())) > 1:
        names, got = " and ".join(widths), " and ".join(map(str, widths.values()))
        raise ValueError(f"{function}: expected {names} with the same columns, got {got}")


def no_temperature(function: str, perplexity: float, nearest: float) -> ValueError:
    return ValueError(
        f"{function}: expected rows that some temperature gives a perplexity of {perplexity:g}, "
        f"got rows whose nearest is {nearest:g}, because too many of them are equal"
    )


def no_finite_features(function: str, name: str) -> ValueError:
    return ValueError(f"{function}: expected {name} without NaN and infinity, got some")


def no_heads_file(path: Any, got: str) -> ValueError:
    return ValueError(f"load_heads: expected {path} to be what save_heads wrote, got {got}")


def no_package(function: str, package: str) -> ImportError:
    return ImportError(
        f"{function}: expected the package {package}, got none; `pip install {package}`"
    )
