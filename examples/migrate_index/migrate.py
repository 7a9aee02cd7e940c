"""Migrate an index of MiniLM's vectors to all-mpnet-base-v2 from 500 calibration texts.

    python embed.py                       # once: texts, and the vectors of both models
    python migrate.py                     # report, fit, save, map, serve
    python migrate.py --old minilm-4      # from a weak old model, where it pays

The report on the calibration texts comes before anything is mapped. The last table is the truth,
which a real migration does not know: what an index of the new model's own vectors finds.
"""

# %%
from __future__ import annotations

import argparse
from pathlib import Path

import faiss
import numpy as np
import torch
from migration import (
    Vectors,
    fitted,
    folded,
    gains,
    index_rows,
    load_migration,
    query_rows,
    report,
    save_migration,
    write_index,
)
from texts import vectors
from torch import Tensor

from structure_reg import search


def inner_products(rows: np.ndarray, block: int = 65_536) -> faiss.IndexFlatIP:
    """An exact index; faiss has approximate ones (HNSW, IVF) for inner products as well."""
    index = faiss.IndexFlatIP(rows.shape[1])
    for start in range(0, len(rows), block):
        index.add(np.ascontiguousarray(rows[start : start + block]))
    return index


def by_faiss(index: faiss.IndexFlatIP, queries: Tensor) -> Tensor:
    """Places of the ten nearest rows of each query."""
    return torch.from_numpy(index.search(queries.numpy(), 10)[1])


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", choices=("minilm", "minilm-4"), default="minilm")
    parser.add_argument("--calibration", type=int, default=500, help="texts; default: %(default)s")
    parser.add_argument("--stored", type=int, default=4000, help="texts; default: %(default)s")
    parser.add_argument(
        "--queries", type=int, default=1000, help="titles of stored texts; default: %(default)s"
    )
    parser.add_argument(
        "--wanted", type=float, default=0.9, help="share of nDCG@10 to keep; default: %(default)s"
    )
    parser.add_argument("--data", type=Path, default=Path("data/debian"))
    parser.add_argument("--output", type=Path, default=Path("outputs/migrate_index"))
    return parser.parse_args()


def main() -> None:
    args = parsed()
    old, new = vectors(args.data, args.old), vectors(args.data, "mpnet")
    if args.stored + args.calibration > len(old.texts):
        raise SystemExit(
            f"--stored and --calibration: expected at most {len(old.texts)} texts together, "
            f"got {args.stored + args.calibration}"
        )
    args.output.mkdir(parents=True, exist_ok=True)
    stored = old.texts[: args.stored]
    calibration = torch.arange(args.stored, args.stored + args.calibration)
    of_old, of_new = (Vectors(*(z[calibration] for z in side)) for side in (old, new))

    # %% Report: would the index be good enough?
    everything = torch.cat([stored, of_old.texts])
    rows = torch.arange(args.stored, len(everything))
    found = report(everything, rows, of_new, of_old.queries)
    print(found)
    print(f"with a ridge of {found.ridge:g}")
    print(found.verdict(args.wanted))

    # %% Fit to all calibration texts, and save the map
    save_migration(fitted(of_old, of_new, found.ridge), args.output)

    # %% Map the stored vectors, from one file to another
    np.save(args.output / "stored.npy", stored.numpy())
    migration = load_migration(args.output)
    memory_map = np.load(args.output / "stored.npy", mmap_mode="r")
    rows_of_index = write_index(migration, memory_map, args.output / "index.npy", block=1024)
    faiss.write_index(inner_products(rows_of_index), str(args.output / "index.faiss"))

    # %% Serve the new model's queries
    index = faiss.read_index(str(args.output / "index.faiss"))
    queries = new.queries[: args.queries]
    of_mapped = by_faiss(index, query_rows(migration, queries))

    # The same for a service that takes the model's own vectors: the index contains their map.
    index = inner_products(folded(migration, torch.tensor(rows_of_index)).numpy())
    of_raw = by_faiss(index, torch.cat([queries, torch.ones(args.queries, 1)], 1))

    # %% The truth, by the titles of stored texts
    target = torch.arange(args.queries)
    of_new_index = search(queries, new.texts[: args.stored]).indices
    truth = gains(of_new_index, target).mean()
    of_old_index = search(old.queries[: args.queries], stored).indices
    print(f"\n{args.queries:>6} other queries by faiss             nDCG@10    kept")
    for name, top in (
        ("mapped index, mapped queries", of_mapped),
        ("mapped index, queries as they are", of_raw),
        ("old index, old queries", of_old_index),
        ("new index, new queries", of_new_index),
    ):
        gain = gains(top, target).mean()
        print(f"{name:>38}  {gain:8.3f}{gain / truth:8.3f}")
    same = (of_mapped[:, :, None] == of_raw[:, None]).any(2).double().mean()
    print(f"mapped queries and queries as they are share {same:.3f} of their top 10")

    # %% What not to do: add the new model's vectors to the mapped ones
    mixed = np.array(rows_of_index)
    mixed[1::2] = index_rows(migration.new, migration.bank, new.texts[1 : args.stored : 2])
    of_mixed = by_faiss(inner_products(mixed), query_rows(migration, queries))
    alone, among = (gains(top, target)[::2].mean() for top in (of_mapped, of_mixed))
    print(f"with every other text native, nDCG@10 of the mapped ones: {alone:.3f} -> {among:.3f}")


if __name__ == "__main__":
    main()
