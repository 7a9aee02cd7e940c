"""Extract features of a frozen encoder for the pictures or the captions of a pairs table.

    python extract_features.py data/openclipart/pairs.csv --encoder vit-s14
    python extract_features.py data/openclipart/pairs.csv --encoder minilm

Writes a store below data/features with one row per picture or caption and one file per layer. It
resumes where it was killed. A large set needs two passes: first all layers of a sample of the
training pairs, from which measure_alignment.py chooses; then the chosen layers of all rows.

    ... data/coco/pairs.csv --encoder hf:facebook/dinov2-base --rows 5000
    ... data/coco/pairs.csv --encoder hf:facebook/dinov2-base --layers hidden_states.9 layernorm

To use several GPUs, run torchrun --nproc-per-node 8 extract_features.py ...
--prompts turns the class names of a table into prompts, with the templates of prompts.txt.
"""

# %%
from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import encoders
import torch
import torch.distributed as dist
from pictures import FITS
from results import folder_name, named
from tables import Pair, read_pairs

from structure_reg import FeatureStore, extract_features, merge_stores

HERE = Path(__file__).parent


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", type=Path, help="pairs.csv written by prepare_data.py")
    parser.add_argument(
        "--encoder",
        required=True,
        help=f"{', '.join(encoders.PACKAGED)}, hf:NAME or timm:NAME; NAME may be a local folder",
    )
    parser.add_argument(
        "--side", choices=("image", "text"), help="what the encoder reads; needed with hf:"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder of encoders and features; default: %(default)s",
    )
    parser.add_argument(
        "--name", help="name of the store below ROOT/features; default: SET/ENCODER"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        default=["all"],
        help="names or numbers of hidden states; default: all layers",
    )
    parser.add_argument(
        "--rows", default="all", help="all (default), or a number of pictures of the train split"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample")
    parser.add_argument(
        "--pool",
        choices=("cls", "mean", "last", "patches"),
        help="how the tokens of a layer become one row; default: the usual way of the encoder",
    )
    parser.add_argument(
        "--fit",
        choices=FITS,
        default="contain",
        help="contain (default) shows whole drawings; use crop for photographs",
    )
    parser.add_argument(
        "--prompts",
        action="store_true",
        help="encode prompts of the class names (the groups), not the captions",
    )
    parser.add_argument(
        "--templates",
        type=Path,
        default=HERE / "prompts.txt",
        help="file of prompts with {label}; default: prompts.txt of this folder",
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--batch-size", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--dtype",
        choices=("float16", "bfloat16", "float32"),
        default="float16",
        help="type of the stored features; default: %(default)s",
    )
    return parser.parse_args()


# %% The rows of a store
def side_of(args: argparse.Namespace) -> str:
    """The modality: as requested, or the known one of a packaged encoder."""
    known = {"efficientnet-lite0": "image", "vit-s14": "image", "minilm": "text"}
    side = args.side or ("text" if args.prompts else known.get(args.encoder))
    if side is None and args.encoder.startswith("timm:"):
        side = "image"
    if side is None:
        raise SystemExit(f"{args.encoder}: expected --side image or text, got neither")
    return side


def store_name(args: argparse.Namespace) -> str:
    """Default name of a store: its encoder, and whether it has prompts or a sample."""
    of = "-prompts" if args.prompts else "-sample" if args.rows != "all" else ""
    return encoders.source_of(args.encoder).replace("/", "--") + of


def sample(pairs: Sequence[Pair], rows: str, seed: int) -> list[int]:
    """Positions of all pairs, or of the first caption of some pictures of the train split.

    The sample is the same for both encoders, and choices based on it have seen no test pair.
    """
    if rows == "all":
        return list(range(len(pairs)))
    if not rows.isdecimal() or rows == "0":
        raise SystemExit(f"--rows: expected all or a positive number, got {rows}")
    first: dict[str, int] = {}
    for row, pair in enumerate(pairs):
        if pair.split == "train":
            first.setdefault(pair.id, row)
    candidates = list(first.values())
    return sorted(random.Random(seed).sample(candidates, min(int(rows), len(candidates))))


def inputs_of(
    args: argparse.Namespace, pairs: list[Pair], side: str
) -> tuple[list[str | int], list[Any]]:
    """Id and input of each row: each picture once, captions as in the table, or prompts."""
    if args.prompts:
        templates = [
            t for t in args.templates.read_text(encoding="utf-8").splitlines() if "{label}" in t
        ]
        labels = list(dict.fromkeys(pair.group for pair in pairs))
        ids = [f"{label}|{number}" for label in labels for number in range(len(templates))]
        return [*ids], [template.format(label=label) for label in labels for template in templates]
    rows = sample(pairs, args.rows, args.seed)
    if side == "text":
        return [*rows], [pairs[row].caption for row in rows]
    pictures = {pairs[row].id: pairs[row].path for row in rows}
    return [*pictures], list(pictures.values())


def batches(
    encoder: encoders.Encoder, inputs: Sequence[Any], store: FeatureStore, size: int
) -> Iterator[Any]:
    """Yield all rows of the store in order, while the next batches are prepared.

    The library only counts rows that the store already has, so they are yielded as empty rows.
    """
    wanted = [inputs[row] for row in store.rows]
    done = store.done
    if done:
        yield torch.empty(done, 0)
    parts = [wanted[start : start + size] for start in range(done, len(wanted), size)]
    with ThreadPoolExecutor(1) as worker:
        coming = [worker.submit(encoder.batch, part) for part in parts[:2]]
        for number in range(len(parts)):
            yield coming.pop(0).result()
            if number + 2 < len(parts):
                coming.append(worker.submit(encoder.batch, parts[number + 2]))


# %%
def main() -> None:
    args = parsed()
    side, pairs = side_of(args), read_pairs(args.table)
    encoder = encoders.load(
        args.encoder, side, root=args.root, fit=args.fit, revision=args.revision
    )
    ids, inputs = inputs_of(args, pairs, side)
    layers = [int(layer) if layer.lstrip("-").isdecimal() else layer for layer in args.layers]
    layers = encoder.layers if layers == ["all"] else layers
    pool = encoders.patches if args.pool == "patches" else args.pool or encoder.pool

    table = folder_name(args.table)
    path = named(args.root / "features", args.name or f"{table}/{store_name(args)}")
    # The manifest records how a store was made; a store is rejected if any of it has changed.
    text = "\n".join(str(one if side == "text" else one.name) for one in inputs)
    facts = encoder.preprocessing | {
        "table": table,
        "inputs": crc32(text.encode()),
    }

    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        encoder.model.to(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if world > 1:  # the slowest process may be far behind
        dist.init_process_group("gloo", timeout=timedelta(days=2))
    shard = path if world == 1 else path.with_name(f"{path.name}.shards") / f"{rank}-of-{world}"
    store = FeatureStore.create(
        shard,
        ids,
        model=encoder.name,
        revision=encoder.revision,
        preprocessing=facts,
        rows=range(rank, len(ids), world),
    )
    if store.done:
        print(f"{shard}: {store.done} of {len(store.rows)} rows are already stored")
    extract_features(
        encoder.model,
        batches(encoder, inputs, store, args.batch_size),
        layers=layers,
        pool=pool,
        dtype=getattr(torch, args.dtype),
        store=store,
        progress=rank == 0 and bool(store.pending),
    )
    if world > 1:
        dist.barrier()
        if rank == 0:
            merge_stores(path, sorted(shard.parent.iterdir()))
        dist.destroy_process_group()
    if rank == 0:
        print(f"{path}: {FeatureStore(path)}")


if __name__ == "__main__":
    main()
