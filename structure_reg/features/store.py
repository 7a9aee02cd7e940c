"""Features on disk: a file for each layer, and a manifest that they have to match."""

from __future__ import annotations

import json
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from structure_reg.features import manifest as manifests
from structure_reg.features import tensor_file
from structure_reg.features._checks import (
    check_all_rows,
    check_appended,
    check_id_list,
    check_range,
    no_store,
    no_stored_layer,
)
from structure_reg.features.manifest import IDS, MANIFEST, LayerFile, Manifest

COMMIT_SECONDS = 5.0


class FeatureStore(Mapping[str, Tensor]):
    """A mapping from layer to (n, d) features that lives in a directory.

    Opening checks every file against the manifest: its presence, dtype, shape and size, and the
    checksum of the ids. :meth:`verify` checks the features' own. Nothing is ever unpickled.

    A run that was killed, at any point, is resumed by running it again: :meth:`create` reopens what
    is there, and the finished store has the same bytes as if nothing had happened. At most the last
    five seconds of work are lost. Only one process may write a store: give each its own, as
    in the example, and put them together by :func:`merge_stores`.

    Parameters
    ----------
    path : str or path
        A directory that :meth:`create` made.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ValueError
        If the files are not what the manifest says.

    See Also
    --------
    extract_features : Fills a store.

    Notes
    -----
    Each layer is a file in the safetensors format with one tensor, ``"features"``, and can be read
    without this library; the manifest and the ids are JSON.

    Examples
    --------
    One process of several, as under torchrun with this rank and world size; here rank 0 of 2:

    >>> import tempfile
    >>> dataset, directory = torch.randn(6, 8), tempfile.mkdtemp()
    >>> store = FeatureStore.create(
    ...     f"{directory}/0", ids=["a", "b", "c", "d", "e", "f"], rows=range(0, 6, 2), model="tiny"
    ... )
    >>> batches = [dataset[store.rows]]
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(8, 4))
    >>> features = extract_features(encoder, batches, layers=["0"], pool="cls", store=store)
    >>> FeatureStore(f"{directory}/0")
    FeatureStore(3 of 3 rows; '0': 4)
    >>> store.ids
    ['a', 'c', 'e']
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self._manifest = manifests.read(self.path)
        self._committed = time.monotonic()
        self.ids: list[str | int] = self._read_ids()
        for layer in self:
            tensor_file.check(*self._file(layer))

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        ids: Sequence[str | int],
        *,
        model: str,
        revision: str | None = None,
        preprocessing: Any = None,
        rows: range | None = None,
    ) -> FeatureStore:
        """Start a store, or reopen the one that an interrupted run with these arguments left.

        Parameters
        ----------
        path : str or path
            A directory that does not exist, is empty, or holds such a store.
        ids : sequence of str or int
            One for each sample of the whole dataset; they may repeat.
        model, revision : str
            Which encoder, in the words of whoever published it.
        preprocessing : object
            What was done to the inputs, as anything that JSON can hold.
        rows : range, optional
            The samples of this store: ``range(rank, n, world)`` or ``range(start, stop)``. By
            default all.

        Returns
        -------
        FeatureStore
            With :attr:`done` rows already in it, whose checksums have been verified.

        Raises
        ------
        TypeError
            If an argument is of the wrong kind, or `preprocessing` is not for JSON.
        ValueError
            If the store there was made from something else or is damaged, the directory holds
            other files, or `rows` is not within `ids`.
        """
        check_id_list("FeatureStore.create", ids)
        rows = range(len(ids)) if rows is None else rows
        check_range("FeatureStore.create", rows, len(ids))
        path, text = Path(path), json.dumps([ids[row] for row in rows])
        new = Manifest(
            model=model,
            revision=revision,
            preprocessing=json.loads(json.dumps(preprocessing)),
            start=rows.start,
            stop=rows[-1] + 1,
            step=rows.step,
            total=len(ids),
            ids_crc32=zlib.crc32(text.encode()),
            extraction=None,
            dtype=None,
            layers={},
            done=0,
        )
        if not (path / MANIFEST).is_file():
            path.mkdir(parents=True, exist_ok=True)
            foreign = {file.name.removesuffix(".tmp") for file in path.iterdir()} - {IDS, MANIFEST}
            if foreign:
                raise no_store(path, "an empty directory or a store", sorted(foreign)[0])
            tensor_file.write_text(path / IDS, text)
            new.write(path)
        store = cls(path)
        for fact in ("model", "revision", "preprocessing", "rows", "total", "ids_crc32"):
            there, asked = getattr(store._manifest, fact), getattr(new, fact)
            if there != asked:
                raise no_store(path, f"{fact} {asked!r}", repr(there))
        store.verify()
        return store

    @property
    def rows(self) -> range:
        """Positions in the dataset of this store's samples."""
        return self._manifest.rows

    @property
    def done(self) -> int:
        """How many of the rows are written: the first ones."""
        return self._manifest.done

    @property
    def pending(self) -> range:
        """Positions in the dataset of the samples that are still to do."""
        return self.rows[self.done :]

    @property
    def manifest(self) -> Manifest:
        """The facts: model, revision, preprocessing, extraction, dtype, layers and more."""
        return self._manifest

    def record(self, extraction: Any) -> None:
        """Note how the features are made; refuse a way that differs from that of the rows in it.

        Parameters
        ----------
        extraction : object
            Anything that JSON can hold; :func:`extract_features` notes layers, pool and dtype.

        Raises
        ------
        ValueError
            If rows that were made in another way are there.
        """
        there, extraction = self._manifest.extraction, json.loads(json.dumps(extraction))
        if self.done and extraction != there:
            raise no_store(self.path, f"features made with {extraction}", there)
        self._manifest.extraction = extraction

    def append(self, features: Mapping[str, Tensor]) -> None:
        """Write the next rows of every layer.

        Parameters
        ----------
        features : mapping of str to Tensor of shape (m, d)
            The rows of ``store.pending[:m]``, all of one floating dtype, and of the same layers
            each time.

        Raises
        ------
        TypeError, ValueError
            If they are not, or fewer than m rows are missing.
        """
        known = {layer: file.width for layer, file in self._manifest.layers.items()}
        room = len(self.pending)
        check_appended(self.path, features, known or None, room)
        first = next(iter(features.values()))
        dtype = str(first.dtype).removeprefix("torch.")
        if not known:
            self._create_files(features, dtype)
        elif dtype != self._manifest.dtype:
            raise no_store(self.path, f"features in {self._manifest.dtype}", dtype)
        n, start = len(self.rows), self.done
        for layer, file in self._manifest.layers.items():
            path = self.path / file.file
            x = features[layer].detach()
            file.crc32 = tensor_file.write_rows(path, dtype, n, start, x, file.crc32)
        self._manifest.done += len(first)
        if not self.pending or time.monotonic() - self._committed >= COMMIT_SECONDS:
            self._commit()

    def verify(self) -> None:
        """Read all features that are done, and refuse the store if a checksum differs."""
        for layer, file in self._manifest.layers.items():
            found = tensor_file.checksum(*self._file(layer), self.done)
            if found != file.crc32:
                raise no_store(self.path, f"checksum {file.crc32} of {file.file}", found)

    def __getitem__(self, layer: str) -> Tensor:
        """Return a layer's features, mapped into memory; changes do not reach the file."""
        if layer not in self._manifest.layers:
            raise no_stored_layer(layer, self._manifest.layers)
        check_all_rows(self.path, self.done, len(self.rows))
        return tensor_file.mapped(*self._file(layer))

    def __iter__(self) -> Iterator[str]:
        """Go through the names of the layers."""
        return iter(self._manifest.layers)

    def __len__(self) -> int:
        """Count the layers."""
        return len(self._manifest.layers)

    def __repr__(self) -> str:
        """Return the rows and the width of each layer."""
        widths = [f"{layer!r}: {file.width}" for layer, file in self._manifest.layers.items()]
        return f"FeatureStore({self.done} of {len(self.rows)} rows; {', '.join(widths)})"

    def _file(self, layer: str) -> tuple[Path, str, int, int]:
        file = self._manifest.layers[layer]
        return self.path / file.file, str(self._manifest.dtype), len(self.rows), file.width

    def _read_ids(self) -> list[str | int]:
        path = self.path / IDS
        text = path.read_bytes() if path.is_file() else b""
        if zlib.crc32(text) != self._manifest.ids_crc32:
            raise no_store(self.path, f"{IDS} of checksum {self._manifest.ids_crc32}", "another")
        ids: list[str | int] = json.loads(text)
        return ids

    def _create_files(self, features: Mapping[str, Tensor], dtype: str) -> None:
        layers = {}
        for position, (layer, x) in enumerate(features.items()):
            readable = re.sub(r"[^\w.-]", "_", layer, flags=re.ASCII)[:100]
            file = LayerFile(f"{position:03d}-{readable}.safetensors", x.shape[1], zlib.crc32(b""))
            tensor_file.create(self.path / file.file, dtype, len(self.rows), file.width)
            layers[layer] = file
        self._manifest.layers, self._manifest.dtype = layers, dtype

    def _commit(self) -> None:
        """Rows to the disk first, then the manifest that counts them."""
        for file in self._manifest.layers.values():
            tensor_file.sync(self.path / file.file)
        self._manifest.write(self.path)
        self._committed = time.monotonic()
