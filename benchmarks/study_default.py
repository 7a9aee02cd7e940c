"""What `Aligner()` gains on test pairs over single layers, closed forms, and plain training.

    python benchmarks/study_default.py --data FOLDER [--sets icons --sizes 1000 3000 all]

Three sets of pictures and names, two image encoders each, from 100 pairs to all of them. FOLDER
is that of `study.py`, and holds `icons` too. Each seed draws its own training pairs; the test
split, none of whose concepts occurs in training, is read here alone. Every line of the output file
is one fit; what is there is not run again. `--report` prints the tables of docs/study.md and draws
its picture. Half an hour of one core for the two small sets, as much again for the icons.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from study import ENCODERS, Pictures, recall_of
from tqdm import tqdm

from structure_reg import Aligner

SETS = ("openclipart", "emoji-noto", "icons")
SIZES = {"icons": ("1000", "3000", "all")}
SMALL = ("100", "200", "400", "all")
DEFAULT, PAIR, PLAIN = "Aligner()", "best pair, same start", "last layers, plain, random start"
CLOSED = ("ridge", "csa", "procrustes")  # CCA on the best pair is the same start
STEPS: dict[str, Any] = {"epochs": 200, "max_steps": 200}  # of at most 4096 pairs
METHODS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    PAIR: {"head": "cca", "layers": "select"},
    PLAIN: {"layers": "last", "start": "random", "structure_weight": 0, **STEPS},
    **{f"{head} on the best pair": {"head": head, "layers": "select"} for head in CLOSED},
}
PICTURE = Path(__file__).parents[1] / "docs/study.png"
NAMES = {"image_dino": "ViT-S/14", "image_effnet": "EfficientNet-Lite0"}
Key = tuple[str, str, str]  # set, encoder, n
Cells = dict[Key, dict[int, float]]  # recall by seed


def lines(data: dict[str, Pictures], args: argparse.Namespace, done: set[str]) -> Iterator[Any]:
    """A fit after the other, those that are done left out."""
    cells = [
        (seed, name, encoder, n)
        for seed in range(args.seeds)
        for name in args.sets
        for encoder in ENCODERS
        for n in args.sizes or SIZES.get(name, SMALL)
    ]
    for seed, name, encoder, n in tqdm(cells, desc="cells", mininterval=10):
        s = data[name]
        rows = s.train[torch.randperm(len(s.train), generator=torch.Generator().manual_seed(seed))]
        rows = rows if n == "all" else rows[: int(n)]
        for method in args.methods:
            line = {"set": name, "encoder": encoder, "n": n, "seed": seed, "method": method}
            if identity(line) in done:
                continue
            start = time.process_time()
            aligner = Aligner(**METHODS[method], seed=seed)
            aligner.fit(s.layers(encoder, rows), s.layers("text", rows), ids=s.ids[rows])
            seconds = time.process_time() - start
            recall = recall_of(aligner, s, encoder, s.test)
            yield {**line, "recall": round(recall, 5), "seconds": round(seconds, 2)}


def identity(line: dict[str, Any]) -> str:
    return json.dumps([line[name] for name in ("set", "encoder", "n", "seed", "method")])


def report(found: list[dict[str, Any]]) -> None:
    """Recall by cell, and the gain of the default over each method."""
    recall: dict[str, Cells] = defaultdict(lambda: defaultdict(dict))
    for line in found:
        key = line["set"], line["encoder"], line["n"]
        recall[line["method"]][key][line["seed"]] = 100 * line["recall"]
    order = [(s, e, n) for s in SETS for e in ENCODERS for n in SIZES.get(s, SMALL)]
    keys = [key for key in order if key in recall[DEFAULT]]
    print("| set | encoder | pairs | " + " | ".join(METHODS) + " |")
    print("|---|---|--:|" + "--:|" * len(METHODS))
    for key in keys:
        means = [f"{mean(recall[method][key]):.1f}" for method in METHODS]
        print(f"| {' | '.join((key[0], NAMES[key[1]], key[2], *means))} |")
    draw(recall, keys)
    print("\n| `Aligner()` over | mean gain, % | least of a cell, % |\n|---|--:|--:|")
    for method in METHODS:
        if method != DEFAULT:
            print_gain(method, recall[DEFAULT], [recall[method]], keys)
    of_pair = [recall[method] for method in METHODS if method not in (DEFAULT, PLAIN)]
    print_gain("the best closed form of each cell", recall[DEFAULT], of_pair, keys)


def print_gain(label: str, of_default: Cells, others: list[Cells], keys: list[Key]) -> None:
    """Mean over cells of the relative gain over the best of others, with its error over cells."""
    best = [max(mean(other[key]) for other in others) for key in keys]
    gains = 100 * (np.array([mean(of_default[key]) for key in keys]) / best - 1)
    error = gains.std(ddof=1) / len(gains) ** 0.5
    print(f"| {label} | {gains.mean():+.1f} ± {error:.1f} | {gains.min():+.1f} |")


def draw(recall: dict[str, Cells], keys: list[Key]) -> None:
    """Recall by number of pairs, a panel for each set and encoder."""
    panels = list(dict.fromkeys(key[:2] for key in keys))
    figure, axes = plt.subplots(2, 3, figsize=(10, 5.5), layout="constrained")
    lines = ((DEFAULT, "tab:orange"), (PAIR, "tab:blue"), (PLAIN, "tab:gray"))
    for panel, axis in zip(sorted(panels, key=lambda panel: panel[1]), axes.flat, strict=True):
        sizes = [key[2] for key in keys if key[:2] == panel]
        for method, color in lines:
            means = [mean(recall[method][*panel, n]) for n in sizes]
            axis.plot(sizes, means, color=color, marker="o", label=method)
        axis.set(title=f"{panel[0]}, {NAMES[panel[1]]}", xlabel="pairs", ylim=(0, None))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("mean recall on test, %")
    axes[1, 0].set_ylabel("mean recall on test, %")
    axes[0, 0].legend(frameon=False, fontsize=8)
    figure.savefig(PICTURE, dpi=110)


def mean(of_seeds: dict[int, float]) -> float:
    return float(np.mean(list(of_seeds.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--sizes", nargs="*")
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    written = args.output.read_text().splitlines() if args.output.exists() else []
    found = [json.loads(line) for line in written]
    if args.report:
        report(found)
        return
    data = {name: Pictures(args.data, name) for name in args.sets}
    for line in lines(data, args, {identity(line) for line in found}):
        with args.output.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
