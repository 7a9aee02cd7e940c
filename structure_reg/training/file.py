"""A fitted Aligner in a safetensors file: both sides, the options, and the history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from structure_reg.heads._checks import no_heads_file
from structure_reg.heads.file import UNREADABLE, read_heads, short, write_heads
from structure_reg.training._checks import no_layer_text
from structure_reg.training.estimator import options_of
from structure_reg.training.history import History
from structure_reg.training.options import (
    StartOptions,
    TrainingOptions,
    checked_options,
    field_names,
    plain,
)
from structure_reg.training.side import Side

T = TypeVar("T")

FORMAT = "structure-reg aligner 1"
SCALING = ("mean_x", "factor_x", "mean_y", "factor_y")
STORED_OPTIONS = (*field_names(StartOptions), *field_names(TrainingOptions))


class AlignerFile(NamedTuple):
    """The content of a file."""

    sides: tuple[Side, Side]
    options: dict[str, Any]
    history: History
    n_pairs: int | None


def write_aligner(path: str | PathLike[str], content: AlignerFile) -> None:
    """Write a file, without options that JSON cannot hold: modules and functions."""
    x, y = content.sides
    options = {
        name: value
        for name, value in content.options.items()
        if value is None or isinstance(value, str | float | int)
    }
    texts = {
        "layers": json.dumps([layer_text(side.name, side.layer) for side in content.sides]),
        "options": json.dumps(options),
        "history": json.dumps(content.history.lists()),
        "stopped": json.dumps(content.history.stopped),
        "n_pairs": json.dumps(content.n_pairs),
    }
    scaling = dict(zip(SCALING, (x.mean, x.factor, y.mean, y.factor), strict=True))
    write_heads("Aligner.save", FORMAT, path, (x.head, y.head), scaling, texts)


def read_aligner(path: str | PathLike[str], device: str | torch.device) -> AlignerFile:
    """Read what :func:`write_aligner` wrote."""
    function = "Aligner.load"
    heads, scaling, texts = read_heads(function, FORMAT, path, device, SCALING)
    try:
        head_x, head_y = heads
        layer_x, layer_y = map(layer_of_text, json.loads(texts["layers"]))
        options = dict[str, Any](json.loads(texts["options"]))
        history = dict[str, Any](json.loads(texts["history"]))
        # 0.1.0 wrote neither.
        stopped, n_pairs = (json.loads(texts.get(name, "null")) for name in ("stopped", "n_pairs"))
        mean_x, factor_x, mean_y, factor_y = (scaling[name] for name in SCALING)
    except UNREADABLE as error:
        got = f"a part that cannot be read ({short(error)})"
        raise no_heads_file(function, path, got) from error
    sides = (
        Side("x", layer_x, mean_x, factor_x, head_x).eval(),
        Side("y", layer_y, mean_y, factor_y, head_y).eval(),
    )
    of_texts = (unreadable(history), no_reason(stopped), no_count(n_pairs))
    for fault in (*map(misfit, sides), unequal_widths(head_x, head_y), *of_texts):
        if fault is not None:
            raise no_heads_file(function, path, fault)
    # 0.1.0 had no noise and no term of unpaired rows.
    defaults = {"noise": 0.0, "unpaired_weight": 0.0}
    return AlignerFile(sides, defaults | options, History(history, stopped), n_pairs)


def stored_options(estimator: Any) -> dict[str, Any]:
    return {name: plain(getattr(estimator, name)) for name in STORED_OPTIONS}


def with_options(kind: type[T], path: str | PathLike[str], options: dict[str, Any]) -> T:
    """An estimator of a kind with the options that a file states."""
    try:
        estimator = kind(**options)
        checked_options(options_of(estimator))
    except (TypeError, ValueError, OverflowError) as error:
        got = f"options that it cannot have ({error})"
        raise no_heads_file("Aligner.load", path, got) from error
    return estimator


def layer_text(side: str, layer: Any) -> Any:
    """A layer as JSON holds it: a tuple becomes a list, and a blend an object with its layers."""
    if isinstance(layer, list):
        return {"blend": [layer_text(side, part) for part in layer]}
    if isinstance(layer, tuple):
        return [layer_text(side, part) for part in layer]
    if plain(layer) is None or isinstance(plain(layer), str | float | int):
        return plain(layer)
    raise no_layer_text(side, layer)


def layer_of_text(text: Any) -> Any:
    if isinstance(text, dict):
        return [layer_of_text(part) for part in text["blend"]]
    hash(layer := tuple(map(layer_of_text, text)) if isinstance(text, list) else text)
    return layer


def misfit(side: Side) -> str | None:
    """Describe how the scaling of a side differs from one that a fit can have."""
    width = (in_features(side.head),)
    for name, tensor in (("mean", side.mean), ("factor", side.factor)):
        if tensor.shape != width or tensor.dtype != torch.float32:
            found = f"{name}_{side.name} of shape {tuple(tensor.shape)} and {tensor.dtype}"
            return f"{found} instead of {width} and torch.float32"
        if not tensor.isfinite().all():
            return f"{name}_{side.name} with NaN or infinity"
    return f"factor_{side.name} below 0" if (side.factor < 0).any() else None


def in_features(head: nn.Module) -> int:
    width: int = head.arguments()["in_features"]  # type: ignore[operator]
    return width


def out_features(head: nn.Module) -> int:
    width: int = head.arguments()["out_features"]  # type: ignore[operator]
    return width


def unequal_widths(head_x: nn.Module, head_y: nn.Module) -> str | None:
    of_x, of_y = out_features(head_x), out_features(head_y)
    return None if of_x == of_y else f"heads with {of_x} and {of_y} outputs, which have no cosine"


def unreadable(history: Mapping[str, Any]) -> str | None:
    """Describe the first part of a history that is no list of numbers."""
    for name, values in history.items():
        if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
            return f"a history whose {short(name)} is no list of numbers"
    return None


def no_count(n_pairs: Any) -> str | None:
    """Describe a number of pairs that no fit can have."""
    if n_pairs is None or (type(n_pairs) is int and n_pairs > 0):
        return None
    return f"{short(n_pairs)} as its number of pairs"


def no_reason(stopped: Any) -> str | None:
    return None if stopped is None or isinstance(stopped, str) else "a stop that is no text"
