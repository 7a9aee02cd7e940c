"""A small data set and two small encoders in folders, as the examples find the real ones."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
import torch
from tiny_pictures import COLOURS, SHAPES, picture
from transformers import BertConfig, BertModel, BertTokenizer, Dinov2Config, Dinov2Model

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 40 pictures with two captions each, a class folder, and both encoders."""
    root = tmp_path_factory.mktemp("data")
    rows, draw = [], random.Random(0)
    for colour in COLOURS:
        for shape in SHAPES:
            name = f"{colour}_{shape}.png"
            picture(root / "shapes" / name, colour, shape)
            picture(root / "kinds" / "images" / colour / name, colour, shape)
            split = draw.choices(["train", "val", "test"], [6, 2, 2])[0]
            for caption in (f"a {colour} {shape}", f"this {shape} is {colour}"):
                rows.append([name, caption, name, colour, split])
    with (root / "shapes" / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "caption", "id", "group", "split"], *rows])
    torch.manual_seed(0)
    vision = Dinov2Model(Dinov2Config(image_size=28, patch_size=14, **SMALL))
    vision.save_pretrained(root / "models" / "tiny-vision")
    facts = {"size": {"shortest_edge": 32}, "crop_size": {"height": 28, "width": 28}}
    (root / "models" / "tiny-vision" / "preprocessor_config.json").write_text(json.dumps(facts))
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "this", "is", *COLOURS, *SHAPES]
    text = BertModel(BertConfig(vocab_size=len(words), intermediate_size=32, **SMALL))
    text.save_pretrained(root / "models" / "tiny-text")
    (root / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(root / "vocab.txt")).save_pretrained(root / "models" / "tiny-text")
    return root
