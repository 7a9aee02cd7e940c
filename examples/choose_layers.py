"""Which layers to align? Both image encoders, every layer against every layer of the text encoder.

    python examples/choose_layers.py                      # the layers that come with the examples
    python examples/choose_layers.py --features all.safetensors   # all layers of your own encoders
    python examples/choose_layers.py --metric cka --every-copy

Reads a safetensors file with one (n, d) tensor per layer, and a .jsonl file of the same name with
one line per pair that holds its text and split. Prints a report for each image encoder and draws
the grids of scores. Of pairs with equal text only the first is kept, because copies are neighbours
of each other in both modalities, whatever the encoders do; --every-copy shows how much they add.
"""

# %%
import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

from structure_reg import select_layers

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument(
    "--features", type=Path, default=Path(__file__).parent / "data" / "openclipart.safetensors"
)
parser.add_argument("--images", nargs="+", default=["image_dino", "image_effnet"])
parser.add_argument("--texts", default="text_minilm")
parser.add_argument("--metric", default="mutual_knn")
parser.add_argument("--permutations", type=int, default=200)
parser.add_argument("--every-copy", action="store_true", help="keep pairs whose text repeats")
parser.add_argument("--output", type=Path, default=Path("outputs/choose_layers.png"))
args = parser.parse_args()

# %% Training pairs only: choosing layers on the test split would leak it
features = load_file(args.features)
pairs = [json.loads(line) for line in args.features.with_suffix(".jsonl").read_text().splitlines()]
seen: set[str] = set()
rows = []
for row, pair in enumerate(pairs):
    if pair["split"] == "train" and (args.every_copy or pair["text"] not in seen):
        seen.add(pair["text"])
        rows.append(row)
rows = torch.tensor(rows)


def layers(encoder: str) -> dict[str, torch.Tensor]:
    """All layers of one encoder by name, from first to last."""
    return {key: features[key][rows] for key in sorted(features) if key.startswith(encoder + ".")}


# %% One report and one panel per encoder
figure, axes = plt.subplots(
    1, len(args.images), figsize=(5.4 * len(args.images), 6), layout="constrained", squeeze=False
)
for image, ax in zip(args.images, axes[0], strict=True):
    selection = select_layers(
        layers(image), layers(args.texts), metric=args.metric, permutations=args.permutations
    )
    print(selection, end="\n\n")
    selection.plot(ax)

args.output.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output, dpi=120)
print(f"wrote {args.output}")
