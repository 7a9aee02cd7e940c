"""Compare ways to map stored vectors: the tables of the page on migrating an index.

    python embed.py
    pip install isotrieve            # optional: its ridge regression is then compared as well
    python compare.py                # 3 splits, 100 to 2,000 calibration texts
    python compare.py --old minilm-4

Prints nDCG@10 in percent of that of an index of the new model's own vectors, and how many of the
ten nearest rows of that index are found.
"""

# %%
from __future__ import annotations

import argparse
import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from migration import Vectors, fitted, gains, index_rows, nearest, report
from texts import vectors
from torch import Tensor

from structure_reg import fit_cca, fit_procrustes, fit_ridge, search

# From both models' calibration texts, stored vectors and queries to the rows found, (n, 10).
Method = Callable[[Vectors, Vectors, Tensor, Tensor], Tensor]


def isotrieve(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    from isotrieve import RidgeMapping

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises ten texts per dimension
        mapping = RidgeMapping().fit(old.texts.numpy(), new.texts.numpy())
    mapped = torch.from_numpy(mapping.transform(stored.numpy()))
    return search(queries, mapped.float()).indices


def ridge(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_ridge(old.texts, new.texts)
    return search(head_new(queries), head_old(stored)).indices


def procrustes(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_procrustes(old.texts, new.texts, standardise=False)
    return search(head_new(queries), head_old(stored)).indices


def cca(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_cca(old.texts, new.texts, standardise=False)
    return search(head_new(queries), head_old(stored)).indices


def cca_and_texts(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    head_old, head_new = fit_cca(old.texts, new.texts, standardise=False)
    banks = head_new(new.texts), head_old(old.texts)
    return search(head_new(queries), head_old(stored), csls=banks).indices


def migrated(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    everything = torch.cat([stored, old.texts])
    rows = torch.arange(len(stored), len(everything))
    ridge = report(everything, rows, new, old.queries).ridge
    migration = fitted(old, new, ridge)
    return nearest(migration, index_rows(migration.old, migration.bank, stored), queries)


def without_old_queries(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
    return migrated(old._replace(queries=None), new, stored, queries)


def with_queries(method: Method) -> Method:
    """The same method with the queries of the calibration texts as further pairs."""

    def found(old: Vectors, new: Vectors, stored: Tensor, queries: Tensor) -> Tensor:
        both = (Vectors(torch.cat(side), None) for side in (old, new))
        return method(*both, stored, queries)

    return found


METHODS: dict[str, Method] = {
    "isotrieve's ridge": isotrieve,
    "fit_ridge": ridge,
    "fit_procrustes, not standardised": procrustes,
    "fit_cca, not standardised": cca,
    "+ CSLS over the texts": cca_and_texts,
    "this example, old model gone": without_old_queries,
    "isotrieve's ridge, with queries": with_queries(isotrieve),
    "fit_ridge, with queries": with_queries(ridge),
    "fit_cca, with queries": with_queries(cca),
    "this example": migrated,
}


def split(side: Vectors, seed: int, stored: int, queries: int) -> tuple[Tensor, Tensor, Vectors]:
    """Queries for the first stored texts, the stored texts, and the calibration texts."""
    order = torch.randperm(len(side.texts), generator=torch.Generator().manual_seed(seed))
    texts, of_texts = (z[order] for z in side)
    return of_texts[:queries], texts[:stored], Vectors(texts[stored:], of_texts[stored:])


def measures(found: Tensor, native: Tensor) -> Tensor:
    """Percentages of the native nDCG@10, and of the native ten nearest rows, (2,)."""
    target = torch.arange(len(found))
    kept = gains(found, target).mean() / gains(native, target).mean()
    overlap = (found[:, :, None] == native[:, None]).any(2).double().mean()
    return 100 * torch.stack([kept, overlap])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", choices=("minilm", "minilm-4"), default="minilm")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 200, 500, 1000, 2000])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the splits")
    parser.add_argument("--stored", type=int, default=4000, help="texts; default: %(default)s")
    parser.add_argument(
        "--queries", type=int, default=1000, help="titles of stored texts; default: %(default)s"
    )
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    args = parser.parse_args()
    methods = dict(METHODS)
    if importlib.util.find_spec("isotrieve") is None:
        methods = {name: method for name, method in methods.items() if "isotrieve" not in name}
    models = [vectors(args.data, name) for name in (args.old, "mpnet")]
    splits = [[split(m, seed, args.stored, args.queries) for m in models] for seed in args.seeds]
    natives = [search(queries, texts).indices for _, (queries, texts, _) in splits]

    print(f"{'nDCG@10 kept, overlap@10; texts:':>34}" + "".join(f"{n:>13}" for n in args.sizes))
    for name, method in methods.items():
        print(f"{name:>34}", end="", flush=True)
        for n in args.sizes:
            of_seeds = []
            for ((_, stored, x), (queries, _, y)), native in zip(splits, natives, strict=True):
                few = (Vectors(*(z[:n] for z in side)) for side in (x, y))
                of_seeds.append(measures(method(*few, stored, queries), native))
            mean = torch.stack(of_seeds).mean(0).tolist()
            print("{:>7.1f}{:>6.1f}".format(*mean), end="", flush=True)
        print()
    of_old = [
        measures(search(queries, stored).indices, native)
        for ((queries, stored, _), _), native in zip(splits, natives, strict=True)
    ]
    print(
        f"{'old index, old queries':>34}" + "{:>7.1f}{:>6.1f}".format(*torch.stack(of_old).mean(0))
    )


if __name__ == "__main__":
    main()
