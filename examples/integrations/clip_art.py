"""Real features for the scripts in this folder: last layers of an EfficientNet and of MiniLM."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

DATA = Path(__file__).parents[1] / "data"


def pairs(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (n, 1280), texts (n, 384) and ids (n,); rows with equal text share an id.

    "train" has 658 pairs. "test" has 447 pairs of concepts that do not occur in training.
    """
    features = load_file(DATA / "openclipart.safetensors")
    lines = [json.loads(line) for line in (DATA / "openclipart.jsonl").read_text().splitlines()]
    rows = torch.tensor([row for row, line in enumerate(lines) if line["split"] == split])
    number = {text: i for i, text in enumerate(sorted({line["text"] for line in lines}))}
    ids = torch.tensor([number[line["text"]] for line in lines])
    x, y = features["image_effnet.17"], features["text_minilm.06"]  # float16
    dtype = torch.get_default_dtype()
    return x[rows].to(dtype), y[rows].to(dtype), ids[rows]
