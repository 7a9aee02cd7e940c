"""How the default of Aligner was found: settings on folds of the train and val splits.

    python benchmarks/study_folds.py --data FOLDER --sizes 100 400

Two of four folds by `group`, so that no concept is on both sides; heads are fitted to a random part
of the rows that are kept. Every line is the mean recall on the rows left out after 200 steps from
one and the same start; at its end the mean of them, and the mean gain over the start with its
standard error. The test split is not read. Half an hour of one core.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from study import Pictures, mean_recall
from torch import Tensor, nn
from tqdm import tqdm

from structure_reg import (
    Aligner,
    clip_loss,
    fit_asif,
    fit_cca,
    fit_csa,
    fit_procrustes,
    fit_ridge,
    structure_loss,
    temperature_for_perplexity,
)
from structure_reg._progress import Progress
from structure_reg.training.augmentation import add_noise
from structure_reg.training.batches import Batch, Pairs
from structure_reg.training.loop import TRAINING, train
from structure_reg.training.objective import Objective, Terms
from structure_reg.training.options import checked_options
from structure_reg.training.side import Side, scaling
from structure_reg.training.start import starting_objective

CASES = [
    ("openclipart", "image_dino.09"),
    ("openclipart", "image_effnet.17"),
    ("emoji-noto", "image_dino.08"),
    ("emoji-noto", "image_effnet.14"),
    ("emoji-noto", "image_effnet.17"),
]
CLOSED = (fit_ridge, fit_cca, fit_csa, fit_procrustes, fit_asif)
STEPS, LR = 200, 3e-4
SILENT = Progress("study", {TRAINING: STEPS}, show=False)


Fold = dict[str, float]  # recall in percent by name of what is compared


def print_gains(found: dict[tuple[str, str, int], list[Fold]], names: list[str], base: str) -> None:
    """Recall by name and cell, and the mean gain over one of the names with its standard error."""
    print(f"{'':32}" + " ".join(f"{d[:5]} {e[6:]} {n}".rjust(18) for d, e, n in found))
    of_base = np.array([fold[base] for cell in found.values() for fold in cell])
    for name in names:
        means = [float(np.mean([fold[name] for fold in cell])) for cell in found.values()]
        gains = np.array([fold[name] for cell in found.values() for fold in cell]) / of_base - 1
        error = gains.std(ddof=1) / len(gains) ** 0.5
        mean, error, least = (100 * value for value in (gains.mean(), error, gains.min()))
        cells = " ".join(f"{m:18.1f}" for m in means)
        print(f"{name:32}{cells} | {mean:+.1f} ± {error:.1f} %, least {least:+.1f} %")


class Setting(NamedTuple):
    """What a training may differ in; the default is plain contrastive training."""

    # Whose neighbourhoods: of all frozen features, of the shared directions, of both sides at once.
    kept: str = "shared"  # or "all", "both"
    weight: float = 0.0
    perplexity: float = 40.0  # or, below 1, a share of the rows
    contrast: float = 0.0  # noise on what the contrastive loss sees, in standard deviations
    structure: float = 0.0  # the same for STRUCTURE; one noise if both have the same
    lr: float = LR
    warmup: float = 0.0  # share of training over which the weight grows
    centering: str = "after"
    fusemix: bool = False
    unpaired: bool = False  # the pairs of the kept folds that are not among the n, as anchors


SETTINGS = [
    Setting(),
    *(Setting("all", weight) for weight in (200, 1000)),
    *(Setting("shared", weight) for weight in (50, 200, 800)),
    Setting("both", 200),
    Setting("shared", 200, unpaired=True),
    Setting("shared", 200, structure=1.0),
    Setting("shared", 50, contrast=1.0),
    *(Setting("shared", 50, contrast=noise, structure=noise) for noise in (0.5, 1.0, 2.0)),
    Setting(contrast=1.0, structure=1.0),
    Setting("all", 200, contrast=1.0, structure=1.0),
    Setting("shared", 50, contrast=1.0, structure=1.0, lr=1e-3),
    Setting("shared", 50, contrast=1.0, structure=1.0, warmup=0.5),
    *(Setting("shared", 50, contrast=1.0, structure=1.0, centering=c) for c in ("before", "none")),
    Setting(fusemix=True),
]


def folds(folder: Path, name: str, s: Pictures) -> list[tuple[Tensor, Tensor]]:
    """Rows (kept, left out) of each of four folds."""
    lines = (folder / f"{name}.jsonl").read_text().splitlines()
    groups = np.unique([str(json.loads(line)["group"]) for line in lines], return_inverse=True)[1]
    rows = torch.cat([s.train, s.val]).sort().values.numpy()
    distinct = np.unique(groups[rows])
    fold_of = np.random.default_rng(0).permutation(len(distinct)) % 4
    fold = fold_of[np.searchsorted(distinct, groups[rows])]
    return [
        (torch.from_numpy(rows[fold != k]), torch.from_numpy(rows[fold == k])) for k in range(4)
    ]


class Varied(nn.Module):
    """The objective of a setting, from heads at their start; `train` sees it as any other."""

    def __init__(self, start: Objective, pairs: Pairs, o: Setting) -> None:
        super().__init__()
        self.head_x, self.head_y = copy.deepcopy(start.head_x), copy.deepcopy(start.head_y)
        self.g_x, self.g_y = (
            copy.deepcopy(head).requires_grad_(False) for head in (start.head_x, start.head_y)
        )
        self.log_scale = nn.Parameter(start.log_scale.detach().clone())
        self.weight, self.transport, self.o = o.weight, None, o
        self.generator = torch.Generator().manual_seed(0)
        n = len(pairs.x)
        perplexity = o.perplexity * n if o.perplexity < 1 else min(o.perplexity, n / 3)
        self.taus = [
            temperature_for_perplexity(z, perplexity, centering=o.centering)
            for z in self.references(pairs.x, pairs.y)
        ]

    @torch.no_grad()
    def references(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """What STRUCTURE compares the rows with, from those of both sides."""
        if self.o.kept == "all":
            return [x, y]
        shared = [self.g_x(x), self.g_y(y)]
        if self.o.kept == "shared":
            return shared
        return 2 * [torch.cat([nn.functional.normalize(z) for z in shared], 1)]

    def aligned(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return [self.head_x(x), self.head_y(y)]

    def noisy(self, batch: Batch, noise: float) -> list[Tensor]:
        # Columns have variance 1.
        deviation = torch.tensor(noise)
        return [add_noise(z, deviation, self.generator) if noise else z for z in batch[:2]]

    def forward(self, batch: Batch, share: float) -> Terms:
        """Each term with its own noise, or both with one."""
        o = self.o
        rows = self.noisy(batch, o.contrast)
        z = self.aligned(*rows)
        L = clip_loss(*z, self.log_scale.exp(), ids=batch.ids)
        R = torch.zeros_like(L)
        if o.weight:
            if o.structure != o.contrast:
                rows = self.noisy(batch, o.structure)
                z = self.aligned(*rows)
            anchors: list[Any] = [None, None]
            if batch.unpaired is not None:
                u, v = batch.unpaired
                anchors = list(zip(self.references(u, v), self.aligned(u, v), strict=True))
            for P, A, tau, of_side in zip(
                self.references(*rows), z, self.taus, anchors, strict=True
            ):
                options = {"temperature": tau, "centering": o.centering}
                R = R + structure_loss(P, A, anchors=of_side, **options) / 2
        return Terms(L + self.weight * share * R, L, R, torch.zeros_like(L))

    def follow(self) -> None:
        """No teacher follows the heads."""

    def prepared(self, x: Tensor, y: Tensor) -> None:
        """Prepare nothing: rows differ from step to step."""


def in_words(o: Setting) -> str:
    differs = [
        f"{name} {value:g}" if not isinstance(value, str | bool) else f"{name} {value}"
        for name, value in o._asdict().items()
        if value != Setting._field_defaults[name]
    ]
    return ", ".join(differs) or "plain"


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
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(k))]
        rows, others = rows[:n], rows[n:]
        X, Y = s.features[layer].float(), s.features["text_minilm.06"].float()
        sides = [Side(name, 0, *scaling(z[rows], True)) for name, z in (("x", X), ("y", Y))]
        (x, y), new, rest = (
            [side.scaled(z[of]) for side, z in zip(sides, (X, Y), strict=True)]
            for of in (rows, out, others)
        )
        column = f"{name[:5]} {layer[6:]} {n}"

        def note(label: str, f: nn.Module, g: nn.Module) -> None:
            with torch.no_grad():
                found[label][column].append(100 * mean_recall(f(new[0]), g(new[1]), s.ids[out]))  # noqa: B023

        for fit in CLOSED:
            note(fit.__name__, *fit(x, y))
        pairs = Pairs(x, y, s.ids[rows])
        torch.manual_seed(0)
        plain = Aligner(structure_weight=0, noise=0, epochs=STEPS)
        options, training = checked_options(plain.get_params())
        start = starting_objective(pairs, options, training.batch_size)
        note("start", start.head_x, start.head_y)
        for o in SETTINGS:
            objective = Varied(start, pairs, o)
            unpaired = tuple(rest) if o.unpaired and len(others) else None
            mixing = 1.0 if o.fusemix else None
            of_setting = replace(training, lr=o.lr, warmup=o.warmup, fusemix=mixing)
            train(objective, pairs._replace(unpaired=unpaired), of_setting, None, SILENT)
            note(in_words(o), objective.head_x, objective.head_y)
    columns = list(next(iter(found.values())))
    print(f"{'':60}" + " ".join(f"{column:>24}" for column in columns))
    of_start = np.concatenate(list(found["start"].values()))
    for name, row in found.items():
        means = [float(np.mean(row[column])) for column in columns]
        gains = 100 * (np.concatenate([row[column] for column in columns]) / of_start - 1)
        print(
            f"{name:60}"
            + " ".join(f"{m:24.1f}" for m in means)
            + f" | {np.mean(means):.2f}, over start {gains.mean():+.1f}"
            + f" ± {gains.std(ddof=1) / len(gains) ** 0.5:.1f} %"
        )


if __name__ == "__main__":
    main()
