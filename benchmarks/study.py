"""What does each part of training contribute, from 50 pairs to all pairs of two data sets?

    python benchmarks/study.py run --data FOLDER [--output FILE]
    python benchmarks/study.py page [--output FILE]

The first takes two to three hours of one core, the second writes docs/study_tables.md and its
pictures.
FOLDER holds `openclipart.safetensors` and `.jsonl`, `emoji-noto.safetensors` and `.jsonl`: a
tensor per layer, a line per pair with its text and split; `study_data.py` makes such a folder. A
run is a line of FILE, by default `study.jsonl`, and what is there is not run again. Seeds
choose the pairs as well as the weights. The test split is read here alone: settings were chosen on
folds of the rest.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from study_page import write_page
from torch import Tensor
from tqdm import tqdm

from structure_reg import Aligner, StructureLoss, released_aligner, retrieval, select_layers
from structure_reg._progress import Progress
from structure_reg.training.batches import Pairs
from structure_reg.training.data import HeldOut
from structure_reg.training.loop import TRAINING, train
from structure_reg.training.options import checked_options
from structure_reg.training.side import Side, scaling
from structure_reg.training.start import starting_objective
from structure_reg.training.validation import validator

SETS = ("openclipart", "emoji-noto")
ENCODERS = ("image_dino", "image_effnet")
SIZES = ("50", "100", "200", "400", "all")
CLOSED = ("ridge", "cca", "csa", "procrustes", "asif")


def trained_methods(n: int, seed: int) -> dict[str, Callable[[], Aligner]]:
    """By name; see `SELECTED_ALONE` for those that do not run on the last layers."""
    return {
        "linear": lambda: Aligner(structure_weight=0, seed=seed),
        "linear + noise": lambda: Aligner(structure_weight=0, noise=1, seed=seed),
        "linear + STRUCTURE": lambda: Aligner(noise=0, seed=seed),
        "linear + STRUCTURE + noise": lambda: Aligner(seed=seed),
        "linear + STRUCTURE as released": lambda: Aligner(**AS_RELEASED, seed=seed),
        "linear + STRUCTURE of all": lambda: Aligner(
            keep="frozen", structure_weight=200, noise=0, seed=seed
        ),
        "linear, random start": lambda: Aligner(**FROM_RANDOM, structure_weight=0, seed=seed),
        "linear, random start + STRUCTURE": lambda: Aligner(
            **FROM_RANDOM,
            keep="frozen",
            structure=StructureLoss(temperature=0.2),
            structure_weight=10,
            noise=0,
            seed=seed,
        ),
        "linear, random start + STRUCTURE as released": lambda: Aligner(
            **FROM_RANDOM, **AS_RELEASED, seed=seed
        ),
        "residual": lambda: Aligner(head="residual", structure_weight=0, seed=seed),
        "residual + STRUCTURE": lambda: Aligner(head="residual", noise=0, seed=seed),
        "residual + STRUCTURE + noise": lambda: Aligner(head="residual", seed=seed),
        "residual + STRUCTURE as released": lambda: Aligner(
            head="residual", **AS_RELEASED, seed=seed
        ),
        "MLP": lambda: Aligner(head="mlp", structure_weight=0, seed=seed),
        "MLP + STRUCTURE": lambda: Aligner(head="mlp", noise=0, seed=seed),
        "MLP + STRUCTURE + noise": lambda: Aligner(head="mlp", seed=seed),
        "MLP + STRUCTURE as released": lambda: Aligner(head="mlp", **AS_RELEASED, seed=seed),
        "released": lambda: released_aligner(n, structure_weight=0, seed=seed),
        "released + STRUCTURE": lambda: released_aligner(n, seed=seed),
    }


STEPS = 200  # of Aligner with no more pairs than a batch has
SILENT = Progress("study", {TRAINING: STEPS}, show=False)
# The release's term in the training of the default; its ramp is of 1000 steps.
AS_RELEASED: dict[str, Any] = {
    "keep": "frozen",
    "structure": StructureLoss(temperature=0.05, divergence="reverse_js"),
    "structure_weight": 10,
    "warmup": 1000 / STEPS,
    "noise": 0,
}
# The quickstart's training, whose setting was found on folds of openclipart.
FROM_RANDOM: dict[str, Any] = {"start": "random", "standardise": False, "dim": 256, "lr": 2e-3}
SELECTED_ALONE = ("linear + STRUCTURE of all", "linear + noise")


class Pictures:
    """A data set: features by layer, and rows by split."""

    def __init__(self, folder: Path, name: str) -> None:
        self.features = load_file(folder / f"{name}.safetensors")
        lines = (folder / f"{name}.jsonl").read_text().splitlines()
        pairs = [json.loads(line) for line in lines]
        _, ids = np.unique([pair["text"] for pair in pairs], return_inverse=True)
        self.ids = torch.from_numpy(ids)
        split = np.array([pair["split"] for pair in pairs])
        self.train, self.val, self.test = (
            torch.from_numpy(np.flatnonzero(split == part)) for part in ("train", "val", "test")
        )

    def layers(self, prefix: str, rows: Tensor) -> dict[str, Tensor]:
        kept = sorted(key for key in self.features if key.startswith(prefix))
        return {key: self.features[key][rows].float() for key in kept}


def first_of_each_text(ids: Tensor) -> Tensor:
    """Rows in which a text is met for the first time."""
    return torch.from_numpy(np.unique(ids.numpy(), return_index=True)[1]).sort().values


def mean_recall(z_x: Tensor, z_y: Tensor, ids: Tensor) -> float:
    """R@1, 5, 10 both ways; each text is once in the gallery, and may have several pictures."""
    texts = first_of_each_text(ids)
    return float(retrieval(z_x, z_y[texts], ids=ids, y_ids=ids[texts]).mean_recall)


def recall_of(aligner: Aligner, s: Pictures, encoder: str, rows: Tensor) -> float:
    """Mean recall of a fitted Aligner on rows of a set."""
    z_x = aligner.transform_x(s.layers(encoder, rows))
    z_y = aligner.transform_y(s.layers("text", rows))
    return mean_recall(z_x, z_y, s.ids[rows])


def closed(head: str, pairs: Pairs, test: Pairs) -> dict[str, Any]:
    aligner = Aligner(head=head).fit(pairs.x, pairs.y)
    z_x, z_y = aligner.transform_x(test.x), aligner.transform_y(test.y)
    return {"end": mean_recall(z_x, z_y, test.ids)}


def trained(aligner: Aligner, pairs: Pairs, val: Pairs, test: Pairs) -> dict[str, Any]:
    """Recall on test at the start, at the end, and where validation was best, of one training."""
    sides = [Side("xy"[i], 0, *scaling(pairs[i], aligner.standardise)) for i in range(2)]
    pairs, val, test = (
        Pairs(*(side.scaled(z) for side, z in zip(sides, p[:2], strict=True)), p.ids)
        for p in (pairs, val, test)
    )
    start, training = checked_options(aligner.get_params())
    torch.manual_seed(training.seed)
    objective = starting_objective(pairs, start, training.batch_size)
    on_val = validator(objective, HeldOut(val.x, val.y, val.ids), training.monitor)
    heads = objective.head_x, objective.head_y
    on_test: list[float] = []

    def validate(share: float) -> float:
        with torch.no_grad():
            z_x, z_y = (f(z) for f, z in zip(heads, test[:2], strict=True))
        on_test.append(mean_recall(z_x, z_y, test.ids))
        return on_val(share)

    to_the_end = replace(training, patience=2.0)
    scores = train(objective, pairs, to_the_end, validate, SILENT).history["validation"]
    best = 0
    for i, score in enumerate(scores):
        if score > scores[best]:
            best = i
        if (i - best) / (len(scores) - 1) > training.patience:
            break
    return {"start": on_test[0], "end": on_test[-1], "early": on_test[best], "curve": on_test}


def runs(
    data: dict[str, Pictures], seeds: range, sizes: list[str]
) -> Iterator[tuple[dict[str, Any], Any]]:
    """What there is to run, seed after seed, so that a part of it is a smaller study."""
    for seed in seeds:
        for name, pictures in data.items():
            for encoder in ENCODERS:
                for n in sizes:
                    n_or_all = n if n == "all" else int(n)
                    yield {"set": name, "encoder": encoder, "n": n_or_all, "seed": seed}, pictures


def cell(key: dict[str, Any], s: Pictures, methods: set[str], done: set[str]) -> Iterator[Any]:
    """All methods for one set, encoder, number of pairs and seed."""
    g = torch.Generator().manual_seed(key["seed"])
    rows = s.train[torch.randperm(len(s.train), generator=g)]
    rows = rows if key["n"] == "all" else rows[: key["n"]]
    xs, ys = s.layers(key["encoder"], rows), s.layers("text", rows)
    first = first_of_each_text(s.ids[rows])
    found = select_layers(
        {k: x[first] for k, x in xs.items()}, {k: y[first] for k, y in ys.items()}, permutations=20
    )
    choices = {"last": (list(xs)[-1], list(ys)[-1]), "selected": (found.x_name, found.y_name)}
    for choice, (layer_x, layer_y) in choices.items():
        pairs, val, test = (
            Pairs(s.features[layer_x][r].float(), s.features[layer_y][r].float(), s.ids[r], None)
            for r in (rows, s.val, s.test)
        )
        for method in CLOSED:
            line = {**key, "layers": choice, "x": layer_x, "y": layer_y, "method": method}
            if method in methods and identity(line) not in done:
                yield {**line, **closed(method, pairs, test)}
        for method, make in trained_methods(len(rows), key["seed"]).items():
            line = {**key, "layers": choice, "x": layer_x, "y": layer_y, "method": method}
            wanted = choice == "selected" or method not in SELECTED_ALONE
            if method in methods and wanted and identity(line) not in done:
                start = time.process_time()
                result = trained(make(), pairs, val, test)
                yield {**line, **result, "seconds": time.process_time() - start}


def identity(line: dict[str, Any]) -> str:
    return json.dumps([line[k] for k in ("set", "encoder", "n", "seed", "layers", "method")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["run", "page"])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, 5), help="from, to")
    parser.add_argument("--sizes", nargs="*", default=SIZES)
    parser.add_argument("--methods", nargs="*", default=[*CLOSED, *trained_methods(2, 0)])
    args = parser.parse_args()
    if args.command == "page":
        write_page([json.loads(line) for line in args.output.read_text().splitlines()])
        return
    args.output.parent.mkdir(parents=True, exist_ok=True)
    written = args.output.read_text().splitlines() if args.output.exists() else []
    done = {identity(json.loads(line)) for line in written}
    data = {name: Pictures(args.data, name) for name in SETS}
    todo = list(runs(data, range(*args.seeds), args.sizes))
    for key, pictures in tqdm(todo, desc="cells", unit="cell", mininterval=10):
        for line in cell(key, pictures, set(args.methods), done):
            with args.output.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
