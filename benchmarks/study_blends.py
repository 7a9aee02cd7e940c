"""What blending the layers of each side gains over the best pair of single layers.

    python benchmarks/study_blends.py --data FOLDER --sets openclipart emoji-noto --sizes 100 400

On two of four folds of the train and val splits by `group`, so that no concept is on both sides, of
each set and both image encoders: mean recall on the rows left out, of the start of `Aligner`, a CCA
whose ridges, power and layers are chosen on the training rows, and after training from it.
Prints percent by choice of layers, and the mean gain over the best pair with its standard error.
The test split is not read. `--sets icons --sizes 1000 3000` takes a quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from study import ENCODERS, Pictures, recall_of
from study_folds import Fold, folds, print_gains
from tqdm import tqdm

from structure_reg import Aligner

CHOICES: dict[str, dict[str, Any]] = {
    "best pair": {"layers": "select"},
    "last pair": {"layers": "last"},
    "3 a side": {"layers": 3},
    "5 a side": {"layers": 5},
    "all": {"layers": "all"},
    "averaged (the default)": {},
    "best pair, trained": {"layers": "select", "epochs": 200},
    "averaged, trained": {"epochs": 200},
    "averaged, trained without STRUCTURE": {"structure_weight": 0},
    "averaged, MLP": {"head": "mlp"},
}


def recalls(
    s: Pictures, encoder: str, rows: torch.Tensor, out: torch.Tensor, choices: list[str]
) -> dict[str, float]:
    """Recall in percent on the rows left out, by choice of layers."""
    xs, ys = s.layers(encoder, rows), s.layers("text", rows)
    found = {}
    for name in choices:
        aligner = Aligner(**CHOICES[name]).fit(xs, ys, ids=s.ids[rows])
        found[name] = 100 * recall_of(aligner, s, encoder, out)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sets", nargs="+", default=["openclipart", "emoji-noto"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--choices", nargs="+", default=list(CHOICES))
    args = parser.parse_args()
    data = {name: Pictures(args.data, name) for name in args.sets}
    todo = [(d, e, n, k) for d in args.sets for e in ENCODERS for n in args.sizes for k in range(2)]
    found: dict[tuple[str, str, int], list[Fold]] = {}
    for name, encoder, n, k in tqdm(todo, desc="folds", mininterval=10):
        rows, out = folds(args.data, name, data[name])[k]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(k))[:n]]
        of_fold = recalls(data[name], encoder, rows, out[:1500], args.choices)
        found.setdefault((name, encoder, n), []).append(of_fold)
    print_gains(found, args.choices, "best pair")


if __name__ == "__main__":
    main()
