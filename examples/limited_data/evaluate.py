"""Evaluate the heads of a batch of runs: retrieval, zero-shot classes, neighbourhoods kept.

    python evaluate.py outputs/limited_data
    python evaluate.py outputs/lin --set evaluation.retrieval=[emoji]

Reads the runs written by train_alignment.py. Writes evaluation.json into each run and into the
folder itself, a table over the seeds, preservation.png and, if the runs differ in the number of
pairs, pairs.png.
"""

# %%
from __future__ import annotations

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import features
import plots
import results
import settings
import torch
import yaml
from features import Features
from tables import read_pairs
from torch import Tensor
from tqdm import tqdm

import structure_reg
from structure_reg import Aligner

Run = dict[str, Any]


class Unaligned:
    """Unchanged features of a model that has aligned them itself."""

    def transform_x(self, x: Tensor) -> Tensor:
        return x

    transform_y = transform_x


Model = Aligner | Unaligned


# %% One run
def retrieved(aligner: Model, of: Features, layers: list[str], run: Run) -> dict[str, Any]:
    """Retrieval of each picture and each caption once: R@k, P@k, MAP@k and ranks both ways."""
    images, texts = candidates(of, run)
    found = structure_reg.retrieval(
        aligner.transform_x(of.x(layers[0], images)),
        aligner.transform_y(of.y(layers[1], texts)),
        ids=of.ids[images],
        y_ids=of.ids[texts],
        ks=run["evaluation"]["ks"],
    )
    ways = {
        "image to text": found.x_to_y._asdict(),
        "text to image": found.y_to_x._asdict(),
    }
    sizes = {"images": len(images), "texts": len(texts)}
    return {"mean recall": found.mean_recall, **sizes, **ways}


def candidates(of: Features, run: Run) -> tuple[Tensor, Tensor]:
    """Return the rows of the evaluated split with each picture once, and with each caption once."""
    rows = of.split(run["evaluation"]["split"])
    if not len(rows):
        raise SystemExit(
            f"{run['data']['pairs']}: expected pairs of the split "
            f"{run['evaluation']['split']!r}, got none"
        )
    images, texts = first_of(of.image_rows, rows), first_of(of.text_rows, rows)
    if run["data"]["positives"] != "image":  # equal captions are one text
        texts = first_of(torch.tensor(features.numbered_captions(of.pairs)), texts)
    return images, texts


def first_of(values: Tensor, rows: Tensor) -> Tensor:
    """Return the first row of each value."""
    first: dict[int, int] = {}
    for row in rows.tolist():
        first.setdefault(int(values[row]), row)
    return torch.tensor(list(first.values()))


def classified(
    aligner: Model, name: str, layers: list[str], run: Run, root: Path
) -> dict[str, Any]:
    """Classify an image folder by the prompts of its classes: features/SET/ENCODER-prompts."""
    data = features.of_set(run["data"], name)
    images = features.opened(root / data["images"])
    prompts = features.opened(root / f"{data['texts']}-prompts")
    label_of = {pair.id: pair.group for pair in read_pairs(root / data["pairs"])}
    labels = list(dict.fromkeys(str(one).rpartition("|")[0] for one in prompts.ids))
    number = {label: i for i, label in enumerate(labels)}
    of_prompts = prompts[layers[1]].float().view(len(labels), -1, prompts[layers[1]].shape[1])
    classes = structure_reg.class_embeddings(of_prompts, head=aligner.transform_y)
    found = structure_reg.zero_shot(
        aligner.transform_x(images[layers[0]].float()),
        classes,
        torch.tensor([number[label_of[str(one)]] for one in images.ids]),
    )
    return {**found._asdict(), "classes": len(labels), "chance": 1 / len(labels)}


def kept(aligner: Model, of: Features, layers: list[str], run: Run) -> dict[str, Any]:
    """Measure which neighbours the heads keep, among the distinct rows of the split."""
    options = run["evaluation"]
    rows = features.distinct(of, of.split(options["split"], "first"))
    rows = features.subsample(rows, min(len(rows), options["samples"]), seed=0)
    x, y = of.x(layers[0], rows), of.y(layers[1], rows)
    z_x, z_y = aligner.transform_x(x), aligner.transform_y(y)
    found: dict[str, Any] = {"samples": len(rows)}
    for side, frozen, aligned in (("images", x, z_x), ("texts", y, z_y)):
        for k in (k for k in options["neighbours"] if k < len(rows) - 1):
            for measure in ("neighbourhood_overlap", "trustworthiness", "continuity"):
                value = getattr(structure_reg, measure)(frozen, aligned, k=k, metric="cosine")
                found.setdefault(side, {}).setdefault(measure, {})[k] = value
    found["modality gap"] = structure_reg.modality_gap(z_x, z_y)
    found["alignment"] = structure_reg.alignment(z_x, z_y)
    found["uniformity"] = [structure_reg.uniformity(z) for z in (z_x, z_y)]
    return found


def opened(folder: Path, overrides: list[str]) -> tuple[Model, Run, dict[str, Any]]:
    """Return the model of a run, its settings, and its result."""
    record = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    run = yaml.safe_load((folder / "settings.yaml").read_text(encoding="utf-8"))
    for override in overrides:
        key, _, value = override.partition("=")
        run = settings.assigned(run, key, yaml.safe_load(value))
    settings.check(run, folder / "settings.yaml")
    unaligned = run["aligner"].get("head") == settings.IDENTITY
    aligner = Unaligned() if unaligned else Aligner.load(folder / "aligner.safetensors")
    return aligner, run, record


def evaluated(folder: Path, overrides: list[str], root: Path) -> dict[str, Any]:
    aligner, run, record = opened(folder, overrides)
    layers = record["layers"]
    own = features.load(run["data"], root)
    sets = {name: features.load(features.of_set(run["data"], name), root)
            for name in run["evaluation"]["retrieval"]}  # fmt: skip
    return {
        **{key: record[key] for key in ("label", "grid", "layer pair", "layers", "seed", "pairs")},
        "retrieval": {
            name: retrieved(aligner, of, layers, run)
            for name, of in {results.folder_name(root / run["data"]["pairs"]): own, **sets}.items()
        },
        "zero-shot": {
            name: classified(aligner, name, layers, run, root)
            for name in run["evaluation"]["zero_shot"]
        },
        "neighbourhoods": kept(aligner, own, layers, run),
    }


# %% All runs
def method_of(record: dict[str, Any], *, without: str = "") -> str:
    """Name of a run: its file, its layers, and its point of the grid."""
    passed = {"selection.layers", without}  # the layer pair already tells the first
    grid = [f"{k.split('.')[-1]} {v}" for k, v in record["grid"].items() if k not in passed]
    return ", ".join([Path(record["label"]).name, record["layer pair"], *grid])


def by_number(folder: Path) -> list[tuple[int, str]]:
    """Sort key that puts 50 before 100, and numbers before words."""
    parts = re.findall(r"\d+|\D+", str(folder))
    return [(int(part), "") if part.isdecimal() else (2**62, part) for part in parts]


def folders_of(runs: Path) -> list[Path]:
    """Return the folders of all runs below a folder."""
    folders = sorted((path.parent for path in runs.rglob("result.json")), key=by_number)
    if not folders:
        raise SystemExit(f"{runs}: expected runs of train_alignment.py, got none")
    return folders


def tables(records: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in percent; one table per combination of sets."""
    alike: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        alike[repr((list(record["retrieval"]), list(record["zero-shot"])))].append(record)
    legend = "mR: mean of R@k in both directions; top-1: zero-shot accuracy; in %, ± over seeds"
    return "\n\n".join([*(table(group) for group in alike.values()), legend])


def table(records: list[dict[str, Any]]) -> str:
    rows: dict[str, list[list[float]]] = defaultdict(list)
    for record in records:
        values = [found["mean recall"] for found in record["retrieval"].values()]
        values += [found["accuracy"][0] for found in record["zero-shot"].values()]
        rows[method_of(record)].append(values)
    heads = [f"{name} mR" for name in records[0]["retrieval"]]
    heads += [f"{name} top-1" for name in records[0]["zero-shot"]]
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{head:>24}" for head in heads)]
    for method, of_seeds in rows.items():
        cells = ""
        for values in zip(*of_seeds, strict=True):
            spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells += f"{100 * statistics.mean(values):.1f}{spread}".rjust(24)
        lines.append(f"{method:{width}}{cells}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder that train_alignment.py wrote to")
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="replace settings, for example evaluation.ks=[1]",
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder of tables and features; default: %(default)s",
    )
    args = parser.parse_args()
    records = []
    for folder in tqdm(folders_of(args.runs), desc="evaluating", unit="run"):
        record = evaluated(folder, args.set, args.root)
        results.as_json(folder / "evaluation.json", record)
        records.append(results.plain(record))
    results.as_json(
        args.runs / "evaluation.json", {"versions": results.versions(), "runs": records}
    )
    text = tables(records)
    (args.runs / "table.txt").write_text(f"{text}\n", encoding="utf-8")
    print(text)

    sides: dict[str, Any] = {"images": {}, "texts": {}}
    recalls: dict[str, Any] = {}
    for record in records:
        for side, methods in sides.items():
            by_k = methods.setdefault(method_of(record), defaultdict(list))
            for k, value in record["neighbourhoods"][side]["neighbourhood_overlap"].items():
                by_k[int(k)].append(value)
        by_pairs = recalls.setdefault(method_of(record, without="data.train"), defaultdict(list))
        by_pairs[record["pairs"]].append(next(iter(record["retrieval"].values()))["mean recall"])
    plots.preservation(args.runs / "preservation.png", sides)
    if any(len(by_count) > 1 for by_count in recalls.values()):
        plots.by_pairs(args.runs / "pairs.png", recalls)
    print(f"wrote {args.runs}")


if __name__ == "__main__":
    main()
