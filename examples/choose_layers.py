"""Choose layers: score every layer of two image encoders against every layer of a text encoder.

    python examples/choose_layers.py                      # layers stored with the examples
    python examples/choose_layers.py --features all.safetensors   # all layers of your own encoders
    python examples/choose_layers.py --metric cka --every-copy

Reads a safetensors file with one (n, d) tensor per layer. A .jsonl file with the same name in the
same folder holds the text and split of each pair, one per line. Prints a report for each image
encoder and draws both grids. Pairs with equal text are kept once, because copies are neighbours of
each other in both modalities for any encoder; --every-copy shows their effect.
"""

# %%
import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file

from structure_reg import select_layers

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--features",
    type=Path,
    default=Path(__file__).parent / "data" / "openclipart.safetensors",
    help="one tensor of shape (n, d) per layer, named ENCODER.LAYER; default: the kept ones",
)
parser.add_argument(
    "--images",
    nargs="+",
    default=["image_dino", "image_effnet"],
    help="ENCODER of the image layers; default: %(default)s",
)
parser.add_argument(
    "--texts", default="text_minilm", help="ENCODER of the text layers; default: %(default)s"
)
parser.add_argument(
    "--metric", default="mutual_knn", help="metric of select_layers; default: %(default)s"
)
parser.add_argument(
    "--permutations",
    type=int,
    default=200,
    help="permutations of the test against chance; default: %(default)s",
)
parser.add_argument("--every-copy", action="store_true", help="keep pairs whose text repeats")
parser.add_argument(
    "--output",
    type=Path,
    default=Path("outputs/choose_layers.png"),
    help="picture to write; default: %(default)s",
)
args = parser.parse_args()

# %% The training pairs only: choosing layers is a choice, so it must not use the test split
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
    """Return all layers of one encoder by name, first to last."""
    return {key: features[key][rows] for key in sorted(features) if key.startswith(encoder + ".")}


# %% One report and one panel per encoder
rows_of_cells = max(len(layers(image)) for image in args.images)
width, height = max(5.4, 2.2 + 0.42 * len(layers(args.texts))), max(6, 1.1 + 0.27 * rows_of_cells)
figure, axes = plt.subplots(
    1,
    len(args.images),
    figsize=(width * len(args.images), height),
    layout="constrained",
    squeeze=False,
)
for image, ax in zip(args.images, axes[0], strict=True):
    selection = select_layers(
        layers(image), layers(args.texts), metric=args.metric, permutations=args.permutations
    )
    print(selection, end="\n\n")
    selection.plot(ax, x_label=f"layer of {image}", y_label=f"layer of {args.texts}")

args.output.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output, dpi=120)
print(f"wrote {args.output}")
