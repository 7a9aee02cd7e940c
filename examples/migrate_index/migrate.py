"""Migrate an index of MiniLM's vectors to all-mpnet-base-v2 from 500 calibration texts.

    python embed.py                       # once: texts, and the vectors of both models
    python migrate.py                     # fit, report, save, map, serve
    python migrate.py --old minilm-4      # from a weak old model, where it pays

Prints the report of the calibration texts before anything is mapped, and in the end the truth,
which a migration does not know: what an index of the new model's own vectors would find.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import faiss
import numpy as np
import torch
from migration import (
    fitted,
    folded,
    gains,
    load_migration,
    query_rows,
    report,
    save_migration,
    write_index,
)
from texts import vectors

from structure_reg import search


def inner_product_index(rows: np.ndarray, block: int = 65_536) -> faiss.IndexFlatIP:
    """An exact index; faiss has approximate ones (HNSW, IVF) for inner products as well."""
    index = faiss.IndexFlatIP(rows.shape[1])
    for start in range(0, len(rows), block):
        index.add(np.ascontiguousarray(rows[start : start + block]))
    return index


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", choices=("minilm", "minilm-4"), default="minilm")
    parser.add_argument(
        "--texts", type=int, default=500, help="calibration texts, at most 2000; default: 500"
    )
    parser.add_argument(
        "--wanted", type=float, default=0.9, help="share of nDCG@10 to keep; default: %(default)s"
    )
    parser.add_argument(
        "--stored", type=int, default=4000, help="texts of the index; default: 4000"
    )
    parser.add_argument(
        "--queries", type=int, default=1000, help="stored texts to search by title; default: 1000"
    )
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--output", type=Path, default=Path("outputs/migrate_index"))
    return parser.parse_args()


def main() -> None:
    args = parsed()
    old, new = vectors(args.data, args.old), vectors(args.data, "mpnet")
    args.output.mkdir(parents=True, exist_ok=True)
    stored = old.descriptions[: args.stored]  # the index
    calibration = torch.arange(args.stored, args.stored + args.texts)

    # %% Report: with the calibration texts as a part of the index, as in a real one
    everything = torch.cat([stored, old.descriptions[calibration]])
    rows = torch.arange(args.stored, len(everything))
    of_new = new.descriptions[calibration]
    of_queries = new.titles[calibration], old.titles[calibration]
    found = report(everything, rows, of_new, *of_queries)
    print(found)
    print(found.verdict(args.wanted))

    # %% Fit to all calibration texts, and save the map
    of_old = old.descriptions[calibration]
    migration = fitted(of_old, of_new)
    save_migration(migration, args.output)

    # %% Map the stored vectors, from file to file
    np.save(args.output / "stored.npy", stored.numpy())
    memory_map = np.load(args.output / "stored.npy", mmap_mode="r")
    migration = load_migration(args.output)
    index_file = args.output / "index.npy"
    index = inner_product_index(write_index(migration, memory_map, index_file, block=1024))
    faiss.write_index(index, str(args.output / "index.faiss"))

    # %% Serve: the new model's vectors of titles as queries
    queries = new.titles[: args.queries]
    served = faiss.read_index(str(args.output / "index.faiss"))
    _, indices = served.search(query_rows(migration, queries).numpy(), 10)

    # The same without a map of the queries, for a service that only takes vectors of the model
    length = migration.new(of_new).norm(dim=1).mean().item()
    rows = folded(migration, torch.from_numpy(np.load(index_file)), length)
    raw = torch.cat([queries, torch.ones(args.queries, 1)], 1)
    _, of_raw = inner_product_index(rows.numpy()).search(raw.numpy(), 10)
    same = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(indices, of_raw, strict=True)])

    # %% The truth: an index of the new model's own vectors
    target = torch.arange(args.queries)
    truth = gains(search(queries, new.descriptions[: args.stored]).indices, target)
    print(
        f"\n{args.queries} other titles, {args.stored} descriptions, by faiss      nDCG@10   kept"
    )
    for name, top in (
        ("mapped index, mapped queries", torch.from_numpy(indices)),
        ("mapped index, queries as they are", torch.from_numpy(of_raw)),
        ("old index, old queries", search(old.titles[: args.queries], stored).indices),
    ):
        gain = gains(top, target)
        print(f"{name:>40}{gain.mean():10.3f}{gain.mean() / truth.mean():7.3f}")
    print(f"{'new index, new queries':>40}{truth.mean():10.3f}{1:7.3f}")
    print(f"top 10 shared by mapped queries and queries as they are: {same:.3f}")


if __name__ == "__main__":
    main()
