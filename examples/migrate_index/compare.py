"""Compare ways to map stored vectors: the table of the page on migrating an index.

    python embed.py
    pip install isotrieve            # optional: its ridge is then one of the rows
    python compare.py                # 3 splits, 100 to 2,000 calibration texts
    python compare.py --old minilm-4

Prints nDCG@10 as a percentage of that of an index of the new model's own vectors.
"""

# %%
from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from migration import gains
from texts import Vectors, vectors
from torch import Tensor

from structure_reg import fit_cca, fit_procrustes, fit_ridge, search

# From calibration texts (old, new), stored vectors and queries to the rows found, (n, 10).
Method = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def isotrieve(old: Tensor, new: Tensor, stored: Tensor, queries: Tensor) -> Tensor:
    from isotrieve import RidgeMapping

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises ten texts per dimension
        mapping = RidgeMapping().fit(old.numpy(), new.numpy())
    return search(queries, torch.from_numpy(mapping.transform(stored.numpy())).float()).indices


def ridge(old: Tensor, new: Tensor, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_ridge(old, new)
    return search(head_new(queries), head_old(stored)).indices


def procrustes(old: Tensor, new: Tensor, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_procrustes(old, new, standardise=False)
    return search(head_new(queries), head_old(stored)).indices


def cca(old: Tensor, new: Tensor, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_cca(old, new, standardise=False)
    return search(head_new(queries), head_old(stored)).indices


def cca_with_csls(old: Tensor, new: Tensor, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_cca(old, new, standardise=False)
    banks = head_new(new), head_old(old)
    return search(head_new(queries), head_old(stored), csls=banks).indices


METHODS: dict[str, Method] = {
    "isotrieve's ridge": isotrieve,
    "fit_ridge": ridge,
    "fit_procrustes, not standardised": procrustes,
    "fit_cca, not standardised": cca,
    "the same with CSLS": cca_with_csls,
}


def split(of: Vectors, seed: int, stored: int, queries: int) -> tuple[Tensor, Tensor, Tensor]:
    """Titles of the first stored texts as queries, stored texts, and calibration texts."""
    order = torch.randperm(len(of.titles), generator=torch.Generator().manual_seed(seed))
    texts = of.descriptions[order]
    return of.titles[order[:queries]], texts[:stored], texts[stored:]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", choices=("minilm", "minilm-4"), default="minilm")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 500, 1000, 2000])
    parser.add_argument("--seeds", type=int, default=3, help="splits; default: %(default)s")
    parser.add_argument(
        "--stored", type=int, default=4000, help="texts of the index; default: 4000"
    )
    parser.add_argument(
        "--queries", type=int, default=1000, help="stored texts to search by title; default: 1000"
    )
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    args = parser.parse_args()
    old, new = vectors(args.data, args.old), vectors(args.data, "mpnet")
    target = torch.arange(args.queries)
    methods = dict(METHODS)
    if importlib.util.find_spec("isotrieve") is None:
        del methods["isotrieve's ridge"]

    def row(name: str, kept: list[list[float]]) -> None:
        cells = torch.tensor(kept)  # (seeds, sizes)
        print(f"{name:>34}" + "".join(f"{100 * mean:8.1f}" for mean in cells.mean(0)), flush=True)

    splits = [
        tuple(split(of, seed, args.stored, args.queries) for of in (old, new))
        for seed in range(args.seeds)
    ]
    truths = [gains(search(q, y).indices, target).mean() for _, (q, y, _) in splits]
    print(f"{'calibration texts':>34}" + "".join(f"{size:8d}" for size in args.sizes))
    for name, method in methods.items():
        kept = [
            [
                (gains(method(x[:n], y[:n], stored, queries), target).mean() / truth).item()
                for n in args.sizes
            ]
            for ((_, stored, x), (queries, _, y)), truth in zip(splits, truths, strict=True)
        ]
        row(name, kept)
    found = [search(q, stored).indices for (q, stored, _), _ in splits]
    kept = [
        (gains(f, target).mean() / truth).item() for f, truth in zip(found, truths, strict=True)
    ]
    row("old index, old queries", [[value] * len(args.sizes) for value in kept])


if __name__ == "__main__":
    main()
