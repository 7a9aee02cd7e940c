"""How the default of Aligner was found: settings on folds of the train and val splits.

    python benchmarks/study_folds.py --data FOLDER --sizes 100 400

Two of four folds by `group`, so that no concept is on both sides; heads are fitted to a random part
of the rows that are kept. Every line is the mean recall on the rows left out after 200 steps from
one and the same start; the last column is the mean of the others. The test split is not read.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from study import Pictures, mean_recall
from torch import Tensor, nn
from tqdm import tqdm

from structure_reg import (
    Aligner,
    FrozenStructure,
    clip_loss,
    fit_asif,
    fit_cca,
    fit_csa,
    fit_procrustes,
    fit_ridge,
    structure_loss,
    temperature_for_perplexity,
)
from structure_reg.training.loop import Pairs
from structure_reg.training.scaling import scaled, scaling
from structure_reg.training.start import starting_objective

CASES = [
    ("openclipart", "image_dino.09"),
    ("openclipart", "image_effnet.17"),
    ("emoji-noto", "image_dino.08"),
    ("emoji-noto", "image_effnet.14"),
    ("emoji-noto", "image_effnet.17"),
]
CLOSED = (fit_ridge, fit_cca, fit_csa, fit_procrustes, fit_asif)
# Whose neighbourhoods, weight, perplexity, standard deviation of noise on the inputs.
SETTINGS = [
    ("none", 0, 40.0, 0.0),
    ("all", 20, 40.0, 0.0),
    ("all", 50, 40.0, 0.0),
    ("all", 200, 40.0, 0.0),
    ("all", 1000, 40.0, 0.0),
    ("all", 200, 5.0, 0.0),
    ("all", 200, 0.5, 0.0),  # a share of the rows
    ("shared", 20, 40.0, 0.0),
    ("shared", 50, 40.0, 0.0),
    ("shared", 200, 40.0, 0.0),
    ("shared", 50, 10.0, 0.0),
    ("none", 0, 40.0, 1.0),
    ("all", 50, 40.0, 1.0),
    ("shared", 50, 40.0, 1.0),
]
STEPS, LR = 200, 3e-4


def folds(folder: Path, name: str, s: Pictures) -> list[tuple[Tensor, Tensor]]:
    """Rows (kept, left out) of the first two of four."""
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    groups = np.unique([str(json.loads(line)["group"]) for line in lines], return_inverse=True)[1]
    rows = torch.cat([s.train, s.val]).sort().values.numpy()
    distinct = np.unique(groups[rows])
    fold_of = np.random.default_rng(0).permutation(len(distinct)) % 4
    fold = fold_of[np.searchsorted(distinct, groups[rows])]
    return [
        (torch.from_numpy(rows[fold != k]), torch.from_numpy(rows[fold == k])) for k in range(2)
    ]


def train(
    objective: nn.Module,
    pairs: Pairs,
    kept: tuple[Tensor, Tensor],
    weight: float,
    perplexity: float,
    noise: float,
) -> None:
    """Contrast with noisy inputs, STRUCTURE without noise."""
    n = len(pairs.x)
    perplexity = perplexity * n if perplexity < 1 else min(perplexity, n / 3)
    taus = [temperature_for_perplexity(z, perplexity) for z in kept]
    frozen = [FrozenStructure(z, temperature=tau) for z, tau in zip(kept, taus, strict=True)]
    heads = objective.head_x, objective.head_y
    trained = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, betas=(0.9, 0.95), weight_decay=1e-4)
    g = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = LR * (1 + np.cos(np.pi * step / STEPS)) / 2
        z = [
            f(x + noise * torch.randn(x.shape, generator=g))
            for f, x in zip(heads, pairs[:2], strict=True)
        ]
        loss = clip_loss(*z, objective.log_scale.exp(), ids=pairs.ids)
        if weight:
            for P, f, x, tau in zip(frozen, heads, pairs[:2], taus, strict=True):
                loss = loss + weight / 2 * structure_loss(P, f(x), temperature=tau)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400])
    args = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    todo = [(case, n, k) for case in CASES for n in args.sizes for k in range(2)]
    data = {name: Pictures(args.data, name) for name, _ in CASES}
    for (name, layer), n, k in tqdm(todo, desc="folds", mininterval=10):
        s = data[name]
        rows, out = folds(args.data, name, s)[k]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(k))[:n]]
        X, Y = s.features[layer].float(), s.features["text_minilm.06"].float()
        by = scaling(X[rows], True), scaling(Y[rows], True)
        x, y = (scaled("study", "x", z[rows], b) for z, b in zip((X, Y), by, strict=True))
        new = [scaled("study", "x", z[out], b) for z, b in zip((X, Y), by, strict=True)]
        column = f"{name[:5]} {layer[6:]} {n}"

        def note(label: str, f: nn.Module, g: nn.Module) -> None:
            with torch.no_grad():
                found[label][column].append(100 * mean_recall(f(new[0]), g(new[1]), s.ids[out]))  # noqa: B023

        for fit in CLOSED:
            note(fit.__name__, *fit(x, y))
        pairs = Pairs(x, y, s.ids[rows], None)
        torch.manual_seed(0)
        start = starting_objective(Aligner(structure_weight=0), pairs)
        note("start", start.head_x, start.head_y)
        with torch.no_grad():
            shared = start.head_x(x), start.head_y(y)
        for whose, weight, perplexity, noise in SETTINGS:
            objective = copy.deepcopy(start)
            kept = shared if whose == "shared" else (x, y)
            train(objective, pairs, kept, weight, perplexity, noise)
            label = f"{whose:6} weight {weight:4} perplexity {perplexity:4g} noise {noise:g}"
            note(label, objective.head_x, objective.head_y)
    columns = list(next(iter(found.values())))
    print(f"{'':46}" + " ".join(f"{column:>24}" for column in columns))
    for label, row in found.items():
        means = [float(np.mean(row[column])) for column in columns]
        print(f"{label:46}" + " ".join(f"{m:24.1f}" for m in means) + f" | {np.mean(means):.2f}")


if __name__ == "__main__":
    main()
