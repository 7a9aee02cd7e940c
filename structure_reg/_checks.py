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


def check_layers(function: str, *, rows: int = 2, **sides: Any) -> None:
    """Refuse sides that are empty, or not layers of features of the same rows on one device."""
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


def check_mask(function: str, mask: Any, x: Tensor) -> None:
    """Refuse a mask that is not a bool (n,) tensor beside x; None keeps all rows."""
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


def check_neighbours(
    function: str, k: Any, rules: Collection[str], *, n: int | None = None
) -> None:
    """Refuse k that is not None, a rule or a count; once n is known, a count of 1 to n - 1."""
    if isinstance(k, str):
        check_choice(function, "k", k, rules)
    elif k is not None:
        check_count(function, "k", k)
        if n is not None and k >= n:
            raise ValueError(
                f"{function}: expected k < n, a row is not its own neighbour, got k = {k}, n = {n}"
            )


def check_k_unused(function: str, k: Any, metric: Any) -> None:
    if k is not None:
        raise ValueError(f"{function}: expected k=None with the metric {metric!r}, got {k!r}")


def check_metric(function: str, metric: Any, names: Collection[str]) -> None:
    if not callable(metric):
        check_choice(function, "metric", metric, names)


def check_score(function: str, score: Any) -> None:
    """Refuse what a user's metric must not return: anything but a scalar."""
    if isinstance(score, Tensor):
        if score.numel() != 1:
            raise ValueError(
                f"{function}: expected metric to return a scalar, got shape {tuple(score.shape)}"
            )
    elif not isinstance(score, Real):
        raise TypeError(
            f"{function}: expected metric to return a scalar, got {type(score).__name__}"
        )


def check_any_score(function: str, found: bool) -> None:
    if not found:
        raise ValueError(f"{function}: expected a finite score for one pair of layers, got none")


def check_share_or_count(function: str, name: str, value: Any) -> None:
    """Refuse what is neither an integer of 1 or more nor a float in (0, 1]."""
    if isinstance(value, Integral):
        check_count(function, name, value)
    else:
        check_number(function, name, value, above=0.0)
        if value > 1:
            raise ValueError(
                f"{function}: expected {name} to be a share of at most 1.0 or an integer, "
                f"got {value}"
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


def check_even_shapes(
    function: str, names: tuple[str, ...], shapes: Sequence[Sequence[Sequence[int]]]
) -> None:
    """Refuse shapes[process][tensor] = (rows, columns) that differ, or make less than 2 rows."""
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


def check_same_width(function: str, **features: Tensor) -> None:
    widths = {name: x.shape[1] for name, x in features.items()}
    if len(set(widths.values())) > 1:
        names, got = " and ".join(widths), " and ".join(map(str, widths.values()))
        raise ValueError(f"{function}: expected {names} with the same columns, got {got}")


def check_width(function: str, name: str, x: Tensor, width: int) -> None:
    if x.shape[1] != width:
        raise ValueError(
            f"{function}: expected {name} with the {width} columns of the batches before, "
            f"got {x.shape[1]}"
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


def no_second_derivative(function: str, instead: str) -> NotImplementedError:
    return NotImplementedError(
        f"{function}: expected to be differentiated once, got a second derivative, which the "
        f"hand-written gradient does not have; the plain form has it, {instead}"
    )


def no_tqdm(function: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"{function}: expected tqdm to be installed for progress=True, got none", name="tqdm"
    )
