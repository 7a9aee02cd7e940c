"""Checks that more than one room shares: of kind, shape, device and option, never of values.

Every message reads ``{function}: expected {what}, got {what}``. A wrong kind of argument raises
TypeError; a wrong shape, device or option raises ValueError. Reading the values of a tensor would
make the host wait for the GPU, so NaN and inf pass through.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Hashable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def check_float_tensor(function: str, name: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {type(x).__name__}")
    check_dense(function, name, x)
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
        if not isinstance(layers, (Mapping, Sequence)):
            raise no_layer_list(function, name, layers)
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


def check_dense(function: str, name: str, x: Any) -> None:
    """Refuse sparse tensors and arrays: to fill in their zeros is the caller's choice."""
    if isinstance(x, Tensor):
        if x.layout is not torch.strided:
            raise TypeError(
                f"{function}: expected {name} to be dense, got {x.layout}; pass x.to_dense()"
            )
    elif hasattr(x, "toarray") or hasattr(x, "todense"):
        raise TypeError(
            f"{function}: expected {name} to be dense, got {type(x).__name__}; pass x.toarray()"
        )


def check_no_mask(function: str, name: str, x: Any) -> None:
    """Refuse masked entries, under which NumPy keeps numbers that mean nothing."""
    if np.ma.is_masked(x):
        raise ValueError(
            f"{function}: expected {name} without masked entries, got {np.ma.getmaskarray(x).sum()}"
        )


def no_array(function: str, name: str, x: Any) -> TypeError:
    return TypeError(
        f"{function}: expected {name} to be an array or a tensor, got {type(x).__name__}"
    )


def no_readable_array(function: str, name: str, error: Exception) -> ValueError:
    return ValueError(f"{function}: expected {name} to be one array to NumPy, got: {error}")


def no_even_rows(function: str, name: str) -> ValueError:
    return ValueError(
        f"{function}: expected {name} with rows of one length, dtype and device, got several"
    )


def no_numbers(function: str, name: str, a: Any, columns: Sequence[Any]) -> TypeError:
    """The columns without numbers, where they have names; else the dtype."""
    got = f"other values in {', '.join(map(repr, columns))}" if columns else f"dtype {a.dtype}"
    return TypeError(f"{function}: expected {name} to hold numbers only, got {got}")


def no_layer_list(function: str, name: str, layers: Any) -> TypeError:
    return TypeError(
        f"{function}: expected {name} to be a list of tensors or a mapping to them, "
        f"got {type(layers).__name__}"
    )


def check_device(function: str, names: str, *tensors: Tensor) -> None:
    devices = {tensor.device for tensor in tensors}
    if len(devices) > 1:
        got = " and ".join(sorted(map(str, devices)))
        raise ValueError(f"{function}: expected {names} on one device, got {got}")


def check_id_dtype(function: str, name: str, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{function}: expected {name} of an integer dtype, got {ids.dtype}")


def check_id_values(function: str, name: str, values: Sequence[Any]) -> None:
    """Refuse missing ids, and those that have no equality by value."""
    missing = [row for row, value in enumerate(values) if is_missing(value)]
    if missing:
        raise ValueError(
            f"{function}: expected {name} without missing values, got {len(missing)}, "
            f"the first in row {missing[0]}"
        )
    for value in values:
        if not isinstance(value, Hashable) or isinstance(value, Tensor):
            raise TypeError(
                f"{function}: expected {name} to be integers, strings or other hashable values, "
                f"got {type(value).__name__}"
            )


def is_missing(value: Any) -> bool:
    """Whether a value is None, NA of pandas, or differs from itself, as NaN and NaT do."""
    if isinstance(value, tuple):
        return any(map(is_missing, value))
    if value is None or type(value).__name__ == "NAType":
        return True
    return isinstance(value, Hashable) and not isinstance(value, Tensor) and value != value


def check_one_axis(function: str, name: str, shape: Sequence[int]) -> None:
    if len(shape) != 1:
        raise ValueError(f"{function}: expected {name} of shape (n,), got {tuple(shape)}")


def no_id_list(function: str, name: str, ids: Any) -> TypeError:
    return TypeError(
        f"{function}: expected {name} to be a list, an array or a tensor, got {type(ids).__name__}"
    )


def check_ids(function: str, ids: Any, x: Tensor, *, name: str = "ids") -> None:
    """Refuse ids that are not an integer tensor, one id per row of x, on the device of x.

    None means that all rows differ.
    """
    if ids is None:
        return
    if not isinstance(ids, Tensor):
        raise TypeError(f"{function}: expected {name} to be a tensor, got {type(ids).__name__}")
    check_id_dtype(function, name, ids)
    if ids.dtype not in INTEGERS:
        raise TypeError(
            f"{function}: expected {name} in uint8, int8, int16, int32 or int64, got {ids.dtype}; "
            f"pass {name}.long()"
        )
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
) -> float:
    """Return a number of any kind, such as NumPy's, as Python's.

    Refuse anything but a number within (above, below) and >= least. NaN and inf are refused.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{function}: expected {name} to be a number, got {type(value).__name__}")
    if not (above < float(value) < below and float(value) >= least):
        bounds = [f"{name} > {above:g}"] * (above > -math.inf)
        bounds += [f"{name} >= {least:g}"] * (least > -math.inf)
        bounds += [f"{name} < {below:g}"] * (below < math.inf)
        raise ValueError(
            f"{function}: expected {' and '.join(bounds) or f'a finite {name}'}, got {value}"
        )
    return float(value)


def check_count(function: str, name: str, value: Any, *, least: int = 1) -> int:
    """Return an integer of any kind, such as NumPy's, as Python's."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{function}: expected {name} to be an integer, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{function}: expected {name} >= {least}, got {value}")
    return int(value)


def check_flag(function: str, name: str, value: Any) -> bool:
    """Return a boolean as Python's; a string or a number would have a truth, but maybe no sense."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{function}: expected {name} to be a bool, got {type(value).__name__}")
    return bool(value)


def check_choice(function: str, name: str, value: Any, choices: Collection[str]) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: expected {name} to be a string, got {type(value).__name__}")
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{function}: expected {name} to be one of {listed}, got {value!r}")


def check_about(
    function: str,
    heads: int,
    encoders: Any,
    data: Any,
    scores: Any,
    license: Any,  # noqa: A002
) -> None:
    """Refuse what a model card has no place for."""
    check_names(function, "encoders", encoders, heads)
    for name, value in (("data", data), ("license", license)):
        if value is not None and not isinstance(value, str):
            raise TypeError(
                f"{function}: expected {name} to be a string, got {type(value).__name__}"
            )
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", license):
        raise ValueError(
            f"{function}: expected license to be an identifier of the Hub, such as 'mit' or "
            f"'apache-2.0', got {license!r}"
        )
    if scores is None:
        return
    if not isinstance(scores, Mapping) or not all(isinstance(name, str) for name in scores):
        raise TypeError(
            f"{function}: expected scores to be a dict from names to numbers, got {scores!r}"
        )
    for name, value in scores.items():
        is_scalar = isinstance(value, Tensor) and value.ndim == 0
        check_number(function, f"score {name!r}", value.item() if is_scalar else value)


def check_names(function: str, name: str, names: Any, count: int) -> None:
    """Refuse anything but None or a string for each of `count` heads."""
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(
            f"{function}: expected {name} to be a sequence of strings, got {type(names).__name__}"
        )
    if not all(isinstance(text, str) for text in names):
        kinds = " and ".join(type(text).__name__ for text in names)
        raise TypeError(f"{function}: expected {name} to be strings, got {kinds}")
    if len(names) != count:
        raise ValueError(
            f"{function}: expected {count} {name}, one for each head, got {len(names)}"
        )


def check_card(function: str, path: Path, library: str) -> None:
    """Refuse to replace a README that is no model card of this library."""
    text = path.read_text(encoding="utf-8", errors="replace")
    if not re.search(rf"^library_name: *[\"']?{library}[\"']? *$", text, re.MULTILINE):
        raise FileExistsError(
            f"{function}: expected a folder without a README.md of something else, got {path}"
        )


def no_model(function: str, path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"{function}: expected a folder with the file {path.name}, got {path.parent} without it"
    )


def no_folder(function: str, name: Any) -> FileNotFoundError:
    return FileNotFoundError(
        f"{function}: expected a folder, or a repository of the Hugging Face Hub as 'owner/name', "
        f"got {str(name)!r}"
    )


def no_hub(function: str, repo: str) -> ImportError:
    return ImportError(
        f"{function}: expected the package huggingface_hub for the repository {repo!r}, which is "
        "no folder here, got none; `pip install huggingface_hub`"
    )


def no_tqdm(function: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{function}: expected tqdm to be installed for progress=True, got none", name="tqdm"
    )
