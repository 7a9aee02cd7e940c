"""Train heads between two encoders, as a file of settings says: on all pairs or on some.

    python examples/limited_data/train_alignment.py configs/default/openclipart_vit.yaml
    python examples/limited_data/train_alignment.py configs/losses_lin/*.yaml --output outputs/lin
    python examples/limited_data/train_alignment.py configs/data/pairs.yaml --set seeds=[0,1,2]

A folder for each combination of a file's grid, pair of layers and seed: settings.yaml,
versions.json, result.json with the history, curves.png, and the heads. Runs whose result is there
are passed over, so a batch of runs goes on where it was interrupted. The test split takes no part:
evaluate.py reads it.
"""

# %%
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import features
import layer_pairs
import plots
import results
import settings
import torch
from features import Features
from layer_pairs import LayerPair
from torch import Tensor
from tqdm import tqdm

from structure_reg import Aligner

Run = dict[str, Any]


# %% What is trained on
def training_rows(of: Features, run: Run, seed: int) -> Tensor:
    """Some pictures of the train split, with the first or all of their captions."""
    pictures = features.subsample(of.split("train", "first"), run["data"]["train"], seed)
    if run["data"]["captions"] == "first":
        return pictures
    kept = {of.pairs[row].id for row in pictures.tolist()}
    rows = of.split("train").tolist()
    return torch.tensor([row for row in rows if of.pairs[row].id in kept])


def unpaired_rows(run: Run, root: Path, layers: LayerPair) -> tuple[Tensor, Tensor] | None:
    """Rows of either modality that belong to nothing: of two stores, or of two halves of a set."""
    unpaired = run["data"]["unpaired"]
    if unpaired is None:
        return None
    if "halves" in unpaired:
        of = features.load(features.of_set(run["data"], unpaired["halves"]), root)
        rows = of.split(unpaired.get("split", "val"), "first")
        half = len(rows) // 2
        return of.x(layers[0], rows[:half]), of.y(layers[1], rows[half:])
    sides = []
    for side, layer in zip(("images", "texts"), layers, strict=True):
        x = features.opened(root / unpaired[side])[layer]
        rows = features.subsample(torch.arange(len(x)), unpaired.get("rows", "all"), seed=0)
        sides.append(x[rows].float())
    return sides[0], sides[1]


def training_pairs(
    of: Features, rows: Tensor, run: Run, root: Path, layers: LayerPair, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Both sides and the ids of the training pairs, those of another set behind the own ones."""
    x, y, ids = of.x(layers[0], rows), of.y(layers[1], rows), of.ids[rows]
    if (extra := run["data"]["extra"]) is not None:
        other = features.load({**run["data"], **extra}, root)
        more = training_rows(other, {"data": {**run["data"], "train": "all", **extra}}, seed)
        x = torch.cat([x, other.x(layers[0], more)])
        y = torch.cat([y, other.y(layers[1], more)])
        ids = torch.cat([ids, other.ids[more] + ids.max() + 1])
    return x, y, ids


# %% One run: one pair of layers and one seed
def trained(
    of: Features, rows: Tensor, layers: LayerPair, run: Run, seed: int, root: Path
) -> tuple[Aligner, dict[str, Any]]:
    contrastive, structure = dict(run["contrastive"]), dict(run["structure"])
    aligner = Aligner(
        layers="last",  # of the one on each side
        contrastive=settings.CONTRASTIVES[contrastive.pop("loss")](**contrastive),
        structure=settings.STRUCTURES[structure.pop("term")](**structure),
        seed=seed,
        **run["aligner"],
    )
    x, y, ids = training_pairs(of, rows, run, root, layers, seed)
    validation = of.split("val", "first")
    started = time.perf_counter()
    aligner.fit(
        x,
        y,
        ids=ids,
        validation=(of.x(layers[0], validation), of.y(layers[1], validation))
        if len(validation)
        else None,
        unpaired=unpaired_rows(run, root, layers),
    )
    seconds = time.perf_counter() - started
    return aligner, {"pairs": len(x), "seconds": seconds, "history": aligner.history_}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", type=Path, nargs="+", help="files of configs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="data.train=200")
    parser.add_argument("--base", type=Path, help="file in place of the one they are based on")
    parser.add_argument("--root", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path("outputs/limited_data"))
    args = parser.parse_args()
    todo = [
        (f"{path.parent.name}/{path.stem}", run, seed)
        for path in args.settings
        for run in settings.runs(settings.read(path, args.set, args.base))
        for seed in run["seeds"]
    ]
    with tqdm(todo, desc="runs", unit="run") as progress:
        for label, run, seed in progress:
            where = " ".join([label, *(f"{key}={value}" for key, value in run["grid"].items())])
            progress.set_postfix_str(where)
            of = features.load(run["data"], args.root)
            rows = training_rows(of, run, seed)
            for name, layers in layer_pairs.of_run(of, rows, run["selection"], seed).items():
                folder = args.output / results.file_name(where) / name / f"seed-{seed}"
                if (folder / "result.json").is_file():
                    continue
                results.start(folder, {**run, "seeds": [seed]})
                aligner, record = trained(of, rows, layers, run, seed, args.root)
                aligner.save(folder / "aligner")
                plots.curves(folder / "curves.png", record["history"], title=f"{where}, {name}")
                facts = {"label": label, "grid": run["grid"], "layer pair": name, "layers": layers}
                results.as_json(folder / "result.json", {**facts, "seed": seed, **record})
    print(f"{len(todo)} runs are in {args.output}")


if __name__ == "__main__":
    main()
