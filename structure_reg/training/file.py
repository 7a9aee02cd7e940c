"""An aligner in a file: its heads, and beside them what comes before a head and the options."""

from __future__ import annotations

import json
from os import PathLike
from typing import TYPE_CHECKING

import torch

from structure_reg.heads._checks import no_heads_file
from structure_reg.heads.file import read_heads, write_heads

if TYPE_CHECKING:
    from structure_reg.training.aligner import Aligner

FORMAT = "structure-reg aligner 1"
SCALING = ("mean_x", "factor_x", "mean_y", "factor_y")
OPTIONS = (
    "dim",
    "structure_weight",
    "keep",
    "start",
    "standardise",
    "epochs",
    "batch_size",
    "lr",
    "weight_decay",
    "warmup",
    "logit_scale",
    "noise",
    "fusemix",
    "monitor",
    "patience",
    "seed",
)


def write_aligner(path: str | PathLike[str], aligner: Aligner) -> None:
    options = {name: getattr(aligner, name) for name in OPTIONS}
    if isinstance(aligner.head, str):
        options["head"] = aligner.head
    texts = {
        "layers": json.dumps(aligner.layers_),
        "options": json.dumps(options),
        "history": json.dumps(aligner.history_),
    }
    scaling = dict(zip(SCALING, aligner.scaling_, strict=True))
    write_heads("Aligner.save", FORMAT, path, aligner.heads_, scaling, texts)


def read_aligner(path: str | PathLike[str], aligner: Aligner, device: str | torch.device) -> None:
    """Fill an aligner with what :func:`write_aligner` wrote."""
    function = "Aligner.load"
    heads, scaling, texts = read_heads(function, FORMAT, path, device, SCALING)
    try:
        head_x, head_y = heads
        layer_x, layer_y = json.loads(texts["layers"])
        options = {"noise": 0.0} | json.loads(texts["options"])  # 0.1.0 had none
        history = json.loads(texts["history"])
        mean_x, factor_x, mean_y, factor_y = (scaling[name] for name in SCALING)
        for name in (*OPTIONS, *(["head"] if "head" in options else [])):
            setattr(aligner, name, options[name])
    except (KeyError, TypeError, ValueError) as error:
        raise no_heads_file(function, path, f"a part that cannot be read ({error})") from error
    aligner.heads_ = head_x, head_y
    aligner.layers_ = aligner.layers = layer_x, layer_y
    aligner.scaling_ = mean_x, factor_x, mean_y, factor_y
    aligner.history_ = history
