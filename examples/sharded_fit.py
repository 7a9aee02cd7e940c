"""Fit an Aligner over processes, from shards of features on disk to saved heads.

    torchrun --standalone --nproc-per-node 2 examples/sharded_fit.py
    python examples/sharded_fit.py

Both commands save the same heads, up to rounding: every process passes its own pairs to `fit`,
which sees the pairs of all processes.
"""

# %%
import argparse
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch.distributed as dist
from safetensors.torch import load_file

from structure_reg import Aligner

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument("--epochs", type=int, default=100, help="passes over the pairs; default: 100")
parser.add_argument(
    "--output",
    type=Path,
    default=Path("outputs/sharded_fit.safetensors"),
    help="file of the heads to write; default: %(default)s",
)
args = parser.parse_args()

# %% The processes, and the pairs that this one owns: any number of them, none included.
processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
rank = int(os.environ.get("RANK", "0"))
if processes > 1:
    dist.init_process_group("gloo")  # "cpu:gloo,cuda:nccl" on GPUs

data = Path(__file__).parent / "data"
features = load_file(data / "openclipart.safetensors")
pairs = [json.loads(line) for line in (data / "openclipart.jsonl").read_text().splitlines()]
images, texts = features["image_dino.11"].numpy(), features["text_minilm.06"].numpy()
captions = np.array([pair["text"] for pair in pairs])
training = np.array([pair["split"] == "train" for pair in pairs])
own = np.array_split(np.flatnonzero(training), processes)[rank]

# %% One file per process and side, opened without reading it, as a feature extraction leaves them.
with TemporaryDirectory() as folder:
    for name, side in {"images": images, "texts": texts}.items():
        np.save(f"{folder}/{name}.{rank}.npy", side[own])
    x = np.load(f"{folder}/images.{rank}.npy", mmap_mode="r")
    y = np.load(f"{folder}/texts.{rank}.npy", mmap_mode="r")
    aligner = Aligner(epochs=args.epochs).fit(x, y, ids=captions[own])
    del x, y  # Windows keeps the folder as long as the maps are open

# %% Every process holds the heads. One of them saves them, and scores what was not trained on.
if rank == 0:
    args.output.parent.mkdir(parents=True, exist_ok=True)
    aligner.save(args.output)
    test = ~training
    recall = Aligner.load(args.output).score(images[test], texts[test], ids=captions[test])
    print(f"recall on {test.sum()} unseen pairs: {recall:.3f}")
if processes > 1:
    dist.destroy_process_group()
