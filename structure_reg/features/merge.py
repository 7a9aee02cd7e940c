"""Merging the stores that several processes filled."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from structure_reg.features._checks import check_complete, no_store
from structure_reg.features.store import FeatureStore

BLOCK_ROWS = 4096  # rows in memory at a time


def merge_stores(path: str | PathLike[str], shards: Sequence[str | PathLike[str]]) -> FeatureStore:
    """Merge shards into one store, in the order of the dataset.

    The result does not depend on the order of the shards, and is byte for byte the store that one
    process would fill with the same features. To resume a merge that was killed, call it again.

    Parameters
    ----------
    path : str or path
        Directory of the result, as in :meth:`FeatureStore.create`.
    shards : sequence of str or path
        Directories of complete stores; their checksums are verified. Their rows are strided or
        contiguous parts of one dataset, and each sample is in exactly one shard.

    Returns
    -------
    FeatureStore
        The complete store.

    Raises
    ------
    ValueError
        If a shard is incomplete or damaged, if two shards differ in model, layers or pool, or if
        their rows are not a partition of the dataset.

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
    check_shards(stores)
    total = stores[0].manifest.total
    ids: list[str | int] = [0] * total
    for store in stores:
        ids[slice_of(store.rows)] = store.ids
    first = stores[0].manifest
    merged = FeatureStore.create(
        path, ids, model=first.model, revision=first.revision, preprocessing=first.preprocessing
    )
    merged.record(first.extraction)
    for start in range(merged.done, total, BLOCK_ROWS):
        block = range(start, min(start + BLOCK_ROWS, total))
        merged.append({layer: gather_rows(stores, layer, block) for layer in first.layers})
    return merged


def check_shards(stores: Sequence[FeatureStore]) -> None:
    """Refuse shards that are not complete, undamaged and a partition of one dataset."""
    first = stores[0].manifest
    # The total is only a claim: of `held` rows, one of the first held + 1 is missing.
    held = sum(len(store.rows) for store in stores)
    covered = torch.zeros(min(first.total, held + 1), dtype=torch.long, device="cpu")
    for store in stores:
        check_complete(store.path, store.done, len(store.rows))
        store.verify()
        for fact in ("model", "revision", "preprocessing", "extraction", "dtype", "total"):
            found, expected = getattr(store.manifest, fact), getattr(first, fact)
            if found != expected:
                raise no_store(store.path, f"{fact} {expected!r} as in {stores[0].path}", found)
        if store.manifest.widths != first.widths:
            raise no_store(store.path, f"layers and widths {first.widths}", store.manifest.widths)
        covered[slice_of(store.rows)] += 1
    if (wrong := (covered != 1).nonzero().flatten()).numel():
        row = int(wrong[0])
        got = f"row {row} in {int(covered[row])}"
        raise no_store(stores[0].path, "shards with each row in exactly one", got)


def gather_rows(stores: Sequence[FeatureStore], layer: str, block: range) -> Tensor:
    """Collect a layer's rows of a block of the dataset from the shards that hold them."""
    width = stores[0].manifest.widths[layer]
    x = torch.empty(len(block), width, dtype=stores[0][layer].dtype, device="cpu")
    for store in stores:
        rows = store.rows
        # The shard's first rows at or after the start, and at or after the stop, of the block.
        first, last = (
            max(0, -(-(row - rows.start) // rows.step)) for row in (block.start, block.stop)
        )
        part = store[layer][first:last]
        if len(part):
            x[rows[first] - block.start :: rows.step][: len(part)] = part
    return x


def slice_of(rows: range) -> slice:
    return slice(rows.start, rows.stop, rows.step)
