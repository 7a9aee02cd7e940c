"""Stores that several processes filled, as one."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from structure_reg.features._checks import check_all_rows, no_store
from structure_reg.features.store import FeatureStore

ROWS = 4096  # that are in memory at a time


def merge_stores(path: str | PathLike[str], shards: Sequence[str | PathLike[str]]) -> FeatureStore:
    """Put shards together, in the order of the dataset.

    The result has the same bytes whatever the order of the shards, and those of a store that one
    process filled with the same features. A merge that was killed is resumed by calling it again.

    Parameters
    ----------
    path : str or path
        A directory for the result, as in :meth:`FeatureStore.create`.
    shards : sequence of str or path
        Complete stores, whose checksums are verified. Their rows are strided or contiguous parts
        of one dataset, each sample in exactly one.

    Returns
    -------
    FeatureStore
        Complete.

    Raises
    ------
    ValueError
        If a shard is incomplete or damaged, two are of different models, layers or pools, or their
        rows are not a partition of the dataset.

    Examples
    --------
    >>> import tempfile
    >>> x, directory = torch.randn(5, 3), tempfile.mkdtemp()
    >>> for rank in range(2):
    ...     shard = FeatureStore.create(
    ...         f"{directory}/{rank}", ids=range(5), rows=range(rank, 5, 2), model="tiny"
    ...     )
    ...     shard.append({"last": x[shard.rows]})
    >>> merged = merge_stores(f"{directory}/all", [f"{directory}/1", f"{directory}/0"])
    >>> torch.equal(merged["last"], x)
    True
    """
    path = Path(path)
    if not shards:
        raise no_store(path, "at least one shard", "none")
    stores = [FeatureStore(shard) for shard in shards]
    check_parts(stores)
    total = stores[0].manifest.total
    ids: list[str | int] = [0] * total
    for store in stores:
        ids[slice_of(store.rows)] = store.ids
    of = stores[0].manifest
    merged = FeatureStore.create(
        path, ids, model=of.model, revision=of.revision, preprocessing=of.preprocessing
    )
    merged.record(of.extraction)
    for start in range(merged.done, total, ROWS):
        block = range(start, min(start + ROWS, total))
        merged.append({layer: gathered(stores, layer, block) for layer in of.layers})
    return merged


def check_parts(stores: Sequence[FeatureStore]) -> None:
    """Refuse shards that are not complete and sound parts of one whole."""
    of = stores[0].manifest
    covered = torch.zeros(of.total, dtype=torch.long)
    for store in stores:
        check_all_rows(store.path, store.done, len(store.rows))
        store.verify()
        for fact in ("model", "revision", "preprocessing", "extraction", "dtype", "total"):
            there, expected = getattr(store.manifest, fact), getattr(of, fact)
            if there != expected:
                raise no_store(store.path, f"{fact} {expected!r} as in {stores[0].path}", there)
        widths, expected = ({l: f.width for l, f in m.layers.items()} for m in (store.manifest, of))
        if widths != expected:
            raise no_store(store.path, f"layers and widths {expected}", widths)
        covered[slice_of(store.rows)] += 1
    if (wrong := (covered != 1).nonzero().flatten()).numel():
        row = int(wrong[0])
        got = f"row {row} in {int(covered[row])}"
        raise no_store(stores[0].path, "shards with each row in exactly one", got)


def gathered(stores: Sequence[FeatureStore], layer: str, block: range) -> Tensor:
    """A layer's rows of a block of the dataset, from whichever shards have them."""
    x = torch.empty(
        len(block), stores[0].manifest.layers[layer].width, dtype=stores[0][layer].dtype
    )
    for store in stores:
        rows = store.rows
        # Rows of the shard at or after the block's start, and at or after its stop.
        first, last = (
            max(0, -(-(row - rows.start) // rows.step)) for row in (block.start, block.stop)
        )
        part = store[layer][first:last]
        if len(part):
            x[rows[first] - block.start :: rows.step][: len(part)] = part
    return x


def slice_of(rows: range) -> slice:
    return slice(rows.start, rows.stop, rows.step)
