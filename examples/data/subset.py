"""Extract openclipart.safetensors and .jsonl from the full set: python subset.py --source DIR.

Keeps the train and test rows, and several layers of each encoder so that layer selection has a
choice, within 10 MB.
"""

import argparse
import json
from pathlib import Path

from safetensors.torch import load_file, save_file

LAYERS = {
    "image_dino": (5, 9, 11, 13),
    "image_effnet": (9, 16, 17),
    "text_minilm": (0, 3, 6),
}
SPLITS = ("train", "test")

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--source", type=Path, required=True, help="folder of the full openclipart set")
source = parser.parse_args().source
target = Path(__file__).parent

lines = (source / "openclipart.jsonl").read_text().splitlines()
pairs = [json.loads(line) for line in lines]
kept = [row for row, pair in enumerate(pairs) if pair["split"] in SPLITS]

features = load_file(source / "openclipart.safetensors")
subset = {
    f"{encoder}.{layer:02d}": features[f"{encoder}.{layer:02d}"][kept].contiguous()
    for encoder, layers in LAYERS.items()
    for layer in layers
}
save_file(subset, target / "openclipart.safetensors")
fields = ("id", "text", "group", "split")
with (target / "openclipart.jsonl").open("w") as file:
    for row in kept:
        print(json.dumps({field: pairs[row][field] for field in fields}), file=file)
