"""Train heads between two encoders according to settings files, on all pairs or on some.

    python train_alignment.py configs/default/openclipart_vit.yaml
    python train_alignment.py configs/losses_lin/*.yaml --output outputs/lin
    python train_alignment.py configs/data/pairs.yaml --set seeds=[0,1,2]

Writes a folder below --output for each combination of a file's grid, pair of layers and seed, with
settings.yaml, versions.json, result.json with the history, curves.png, and the heads. Runs that
have a result are skipped, so a batch of runs resumes where it was interrupted. The test split is
not used here; evaluate.py reads it.
"""

# %%
from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import ablations
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

from structure_reg import Aligner, released_aligner

Run = dict[str, Any]


# %% Training data
def training_rows(of: Features, run: Run, seed: int) -> Tensor:
    """Sample pictures of the train split, with their first caption or all captions."""
    pictures = features.subsample(of.split("train", "first"), run["data"]["train"], seed)
    if run["data"]["captions"] == "first":
        return pictures
    kept = {of.pairs[row].id for row in pictures.tolist()}
    rows = of.split("train").tolist()
    return torch.tensor([row for row in rows if of.pairs[row].id in kept])


def unpaired_rows(run: Run, root: Path, layers: LayerPair) -> tuple[Tensor, Tensor] | None:
    """Rows of both modalities without partners, from two stores or from two halves of a set."""
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
    """Both sides and the ids of the training pairs, followed by those of the extra set."""
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
    options, contrastive, structure = (
        dict(run[section]) for section in ("aligner", "contrastive", "structure")
    )
    loss, term = contrastive.pop("loss"), structure.pop("term")
    if "lr_schedule" in options:
        options["lr_schedule"] = settings.SCHEDULES[options["lr_schedule"]]
    x, y, ids = training_pairs(of, rows, run, root, layers, seed)
    if run["preset"] == "released":
        aligner = released_aligner(len(x), layers="last", seed=seed, **options)
    else:
        # As in the paper, heads are trained, and unpaired rows are neighbours of the pairs.
        options = {"epochs": 200, "unpaired_weight": 0.0} | options
        aligner = Aligner(
            layers="last",  # only one layer is given per side
            contrastive=None if loss == "default" else settings.CONTRASTIVES[loss](**contrastive),
            structure=None if term == "default" else settings.STRUCTURES[term](**structure),
            seed=seed,
            **options,
        )
    held = of.split("val", "first")
    validation = (of.x(layers[0], held), of.y(layers[1], held), of.ids[held])
    started = time.perf_counter()
    aligner.fit(
        x,
        y,
        ids=ids,
        validation=validation if len(held) and run["data"]["validation"] else None,
        unpaired=unpaired_rows(run, root, layers),
    )
    if loss == "inner":
        for head, z in zip(
            aligner.heads_, (aligner.transform_x(x), aligner.transform_y(y)), strict=True
        ):
            ablations.whiten(head, z)
    seconds = time.perf_counter() - started
    history = {**aligner.history_, **aligner.validation_history_}
    return aligner, {"pairs": len(x), "seconds": seconds, "history": history}


def left(
    folder: Path, facts: dict[str, Any], of: Features, rows: Tensor, run: Run, root: Path
) -> None:
    """Train one aligner, and write it to the folder with its settings, curves and result."""
    seed, layers = facts["seed"], facts["layers"]
    results.start(folder, run)
    if run["aligner"].get("head") == settings.IDENTITY:  # for encoders that share a space
        record: dict[str, Any] = {"pairs": 0, "seconds": 0.0, "history": {}}
    else:
        aligner, record = trained(of, rows, layers, run, seed, root)
        aligner.save(folder / "aligner.safetensors")
    if record["history"]:
        grid = [f"{key}={value}" for key, value in facts["grid"].items()]
        title = ", ".join([facts["label"], *grid, f"layers: {facts['layer pair']}"])
        plots.curves(folder / "curves.png", record["history"], title=title)
    results.as_json(folder / "result.json", {**facts, **record})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "settings", type=Path, nargs="+", help="YAML files of settings, such as those in configs"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="replace settings, for example data.train=200",
    )
    parser.add_argument(
        "--base", type=Path, help="file to read in place of the base that the settings files name"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder of tables and features; default: %(default)s",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("outputs/limited_data"),
        help="folder to write to; default: %(default)s",
    )
    args = parser.parse_args()
    todo = [
        (f"{results.folder_name(path)}/{path.stem}", run, seed)
        for path in args.settings
        for run in settings.runs(settings.read(path, args.set, args.base))
        for seed in settings.as_list(run["seeds"])
    ]
    chosen: dict[str, dict[str, LayerPair]] = {}  # shared by runs with the same selection
    trained_now = skipped = 0
    for label, run, seed in tqdm(todo, desc="runs", unit="run"):
        of = features.load(run["data"], args.root)
        rows = training_rows(of, run, seed)
        key = repr((run["data"], run["selection"], rows.tolist(), seed))
        if key not in chosen:
            chosen[key] = layer_pairs.pairs_of_run(of, rows, run["selection"], seed)
        for name, layers in chosen[key].items():
            place = " ".join(f"{key}={value}" for key, value in run["grid"].items())
            folder = results.below(args.output, f"{label}/{place}/{name}/seed-{seed}")
            facts = {"label": label, "grid": run["grid"], "layer pair": name, "layers": layers}
            run_of_seed = {**run, "seeds": [seed]}
            if results.finished(folder, run_of_seed):
                skipped += 1
                continue
            left(folder, {**facts, "seed": seed}, of, rows, run_of_seed, args.root)
            trained_now += 1
    already = f"; skipped {skipped} that had a result" if skipped else ""
    runs = "run" if trained_now == 1 else "runs"
    print(f"wrote {trained_now} {runs} to {args.output}{already}")


if __name__ == "__main__":
    main()
