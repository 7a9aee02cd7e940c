"""Compare rules for the pair of layers to start from: mutual kNN, the last layers, held-out loss.

    python benchmarks/study_layers.py --data FOLDER --sizes 50 100 400

Each rule selects a pair of layers on four folds of the train and val splits by `group`, for both
sets and both image encoders. The script prints the recall on the held-out rows of the CCA that
`select_cca` finds for that pair. "best" selects by that recall itself, which is an upper bound. The
test split is not read. This takes ten minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from study import ENCODERS, SETS, Pictures, first_of_each_text, mean_recall
from study_folds import folds
from tqdm import tqdm

from structure_reg import fit_cca, select_cca, select_layers

SHORT_LISTS = (3, 5, 8)  # numbers of best pairs by mutual kNN


def rules(s: Pictures, encoder: str, rows: torch.Tensor, out: torch.Tensor) -> dict[str, float]:
    """Recall in percent for each rule."""
    xs, ys, ids = s.layers(encoder, rows), s.layers("text", rows), s.ids[rows]
    first = first_of_each_text(ids)
    found = select_layers(
        *({k: z[first] for k, z in side.items()} for side in (xs, ys)), permutations=20
    )
    best_first = found.scores.flatten().argsort(descending=True)[: max(SHORT_LISTS)]
    short = [divmod(int(place), len(ys)) for place in best_first]
    last = len(xs) - 1, len(ys) - 1
    loss, recall = {}, {}
    for pair in dict.fromkeys([*short, last]):
        x, y = list(xs)[pair[0]], list(ys)[pair[1]]
        cca = select_cca(xs[x], ys[y], ids=ids)
        heads = fit_cca(xs[x], ys[y], ridge=cca.ridge, power=cca.power)
        new = (s.features[layer][out].float() for layer in (x, y))
        z_x, z_y = (head(z) for head, z in zip(heads, new, strict=True))
        loss[pair], recall[pair] = cca.loss, 100 * mean_recall(z_x, z_y, s.ids[out])
    result = {
        "last": recall[last],
        "mutual kNN": recall[short[0]],
        "mutual kNN, or the last where the gain is within its error": recall[
            short[0] if found.gain > found.gain_error else last
        ],
    }
    for n in SHORT_LISTS:
        chosen = min([*short[:n], last], key=lambda pair: loss[pair])
        result[f"least held-out loss of {n} and the last"] = recall[chosen]
    return result | {f"best of {max(SHORT_LISTS)} and the last": max(recall.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 100, 400])
    args = parser.parse_args()
    data = {name: Pictures(args.data, name) for name in SETS}
    todo = [(d, e, n, k) for d in SETS for e in ENCODERS for n in args.sizes for k in range(4)]
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for name, encoder, n, k in tqdm(todo, desc="folds", mininterval=10):
        rows, out = folds(args.data, name, data[name])[k]
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(k))[:n]]
        of_fold = rules(data[name], encoder, rows, out)
        found.setdefault((name, encoder, n), []).append(of_fold)
    for rule in of_fold:
        means = [float(np.mean([fold[rule] for fold in cell])) for cell in found.values()]
        print(f"{rule:60}" + " ".join(f"{m:6.1f}" for m in means) + f" | {np.mean(means):.2f}")


if __name__ == "__main__":
    main()
