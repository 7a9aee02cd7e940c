"""A fitted Aligner in a safetensors file: both sides, the options, and the history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any, NamedTuple

import torch

from structure_reg.heads._checks import no_heads_file
from structure_reg.heads.file import read_heads, write_heads
from structure_reg.training.options import StartOptions, TrainingOptions, field_names
from structure_reg.training.side import Side

FORMAT = "structure-reg aligner 1"
SCALING = ("mean_x", "factor_x", "mean_y", "factor_y")
STORED_OPTIONS = (*field_names(StartOptions), *field_names(TrainingOptions))


class AlignerFile(NamedTuple):
    """The content of a file."""

    sides: tuple[Side, Side]
    options: dict[str, Any]
    history: dict[str, list[float]]


def write_aligner(path: str | PathLike[str], content: AlignerFile) -> None:
    """Write a file, without options that JSON cannot hold: modules and functions."""
    x, y = content.sides
    options = {
        name: value
        for name, value in content.options.items()
        if value is None or isinstance(value, str | float | int)
    }
    texts = {
        "layers": json.dumps([x.layer, y.layer]),
        "options": json.dumps(options),
        "history": json.dumps(content.history),
    }
    scaling = dict(zip(SCALING, (x.mean, x.factor, y.mean, y.factor), strict=True))
    write_heads("Aligner.save", FORMAT, path, (x.head, y.head), scaling, texts)


def read_aligner(path: str | PathLike[str], device: str | torch.device) -> AlignerFile:
    """Read what :func:`write_aligner` wrote."""
    function = "Aligner.load"
    heads, scaling, texts = read_heads(function, FORMAT, path, device, SCALING)
    try:
        head_x, head_y = heads
        layer_x, layer_y = json.loads(texts["layers"])
        options: Mapping[str, Any] = json.loads(texts["options"])
        history = json.loads(texts["history"])
        mean_x, factor_x, mean_y, factor_y = (scaling[name] for name in SCALING)
    except (KeyError, TypeError, ValueError) as error:
        raise no_heads_file(function, path, f"a part that cannot be read ({error})") from error
    sides = (
        Side("x", layer_x, mean_x, factor_x, head_x).eval(),
        Side("y", layer_y, mean_y, factor_y, head_y).eval(),
    )
    # 0.1.0 had no noise.
    return AlignerFile(sides, {"noise": 0.0} | dict(options), history)
