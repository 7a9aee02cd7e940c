"""Align two frozen encoders on 658 pairs with `Aligner()`, and save the model.

    python examples/one_call.py                        # a ViT-S/14 and MiniLM
    python examples/one_call.py --image image_effnet   # an EfficientNet and MiniLM

Prints the layers that were chosen and the recall on pairs of unseen concepts, on the same pairs as
`quickstart.py`. The essential part is one line: `Aligner().fit(...)`.
"""

# %%
import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from structure_reg import Aligner, retrieval

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--image",
    default="image_dino",
    choices=["image_dino", "image_effnet"],
    help="image encoder: a ViT-S/14 (default) or an EfficientNet-Lite0",
)
parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
parser.add_argument(
    "--output",
    type=Path,
    default=Path("outputs/aligner.safetensors"),
    help="file of the fitted model; default: %(default)s",
)
args = parser.parse_args()

# %% Real features: every stored layer of both encoders, one row per pair
data = Path(__file__).parent / "data"
features = load_file(data / "openclipart.safetensors")
pairs = [json.loads(line) for line in (data / "openclipart.jsonl").read_text().splitlines()]
captions = np.array([pair["text"] for pair in pairs])  # equal captions are positives
train = np.array([pair["split"] == "train" for pair in pairs])
test = ~train


def side(encoder: str, rows: np.ndarray) -> dict[str, Tensor]:
    """The layers of an encoder, from first to last."""
    return {k: v[torch.from_numpy(rows)] for k, v in sorted(features.items()) if encoder in k}


# %% One call
aligner = Aligner(seed=args.seed, progress=True)
aligner.fit(side(args.image, train), side("text_minilm", train), ids=captions[train])
args.output.parent.mkdir(parents=True, exist_ok=True)
aligner.save(args.output)

# %% Recall on unseen concepts: each picture has one text, a text may have several pictures
z_x = aligner.transform_x(side(args.image, test))
z_y = aligner.transform_y(side("text_minilm", test))
texts, first = np.unique(captions[test], return_index=True)
found = retrieval(z_x, z_y[first], ids=captions[test], y_ids=texts)
recalls = 100 * torch.cat([found.x_to_y.recall, found.y_to_x.recall])
print(f"layers: {aligner.layers_[0]} with {aligner.layers_[1]}")
for way, values in (("image to text", recalls[:3]), ("text to image", recalls[3:])):
    one, five, ten = values.tolist()
    print(f"{way}: R@1 {one:.1f} %, R@5 {five:.1f} %, R@10 {ten:.1f} %")
print(f"mean {recalls.mean():.1f} %")
print(f"wrote {args.output}")
