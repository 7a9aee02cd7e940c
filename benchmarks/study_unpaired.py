"""What unpaired rows gain in `Aligner.fit(..., unpaired=(u, v))`.

    python benchmarks/study_unpaired.py --data FOLDER --sets openclipart emoji-noto --sizes 100 400

On two of four folds of the train and val splits by `group`, so that no concept is on both sides, of
each set and both image encoders. A random part of the kept rows are the pairs. The others are
unpaired: the x of one half of them and the y of the other half, which are of different items, or
both sides of all of them, whose partners exist unseen. Prints the mean recall in percent on the
rows left out, and the mean gain over the same training without unpaired rows with its standard
error. The test split is not read. Ten minutes of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from study import ENCODERS, Pictures, recall_of
from study_folds import Fold, folds, print_gains
from torch import Tensor
from tqdm import tqdm

from structure_reg import Aligner

START: dict[str, Any] = {"epochs": 0}
# Options, and which unpaired rows there are.
WITHOUT = "none"
TRAININGS: dict[str, tuple[dict[str, Any], str]] = {
    "start": (START, "none"),
    WITHOUT: ({"epochs": 50}, "none"),
    "different items, as anchors": ({"unpaired_weight": 0}, "different"),
    "different items": ({}, "different"),
    "the same items": ({}, "same"),
}


def recalls(
    s: Pictures, encoder: str, pairs: Tensor, others: Tensor, out: Tensor
) -> dict[str, float]:
    """Recall in percent on the rows left out, by training."""
    half = len(others) // 2
    rows = {"none": None, "different": (others[:half], others[half:]), "same": (others, others)}
    xs, ys = s.layers(encoder, pairs), s.layers("text", pairs)
    found = {}
    for name, (options, kind) in TRAININGS.items():
        of = rows[kind]
        unpaired = None if of is None else (s.layers(encoder, of[0]), s.layers("text", of[1]))
        aligner = Aligner(**options)
        aligner.fit(xs, ys, ids=s.ids[pairs], unpaired=unpaired)
        found[name] = 100 * recall_of(aligner, s, encoder, out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", default=["openclipart", "emoji-noto"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--most", type=int, default=10**6, help="unpaired rows, at most")
    args = parser.parse_args()
    data = {name: Pictures(args.data, name) for name in args.sets}
    todo = [(n, k, d, e) for n in args.sizes for k in range(2) for d in args.sets for e in ENCODERS]
    found: dict[tuple[str, str, int], list[Fold]] = {}
    for n, k, name, encoder in tqdm(todo, desc="folds", mininterval=10):
        rows, out = folds(args.data, name, data[name])[k]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(k))]
        pairs, others = rows[:n], rows[n:][: args.most]
        of_fold = recalls(data[name], encoder, pairs, others, out[:1500])
        found.setdefault((name, encoder, n), []).append(of_fold)
        tqdm.write(f"{name} {encoder} {n} fold {k}: {of_fold}")
    print_gains(found, list(TRAININGS), WITHOUT)


if __name__ == "__main__":
    main()
