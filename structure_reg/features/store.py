"""Features on disk: one file per layer, and a manifest that every file has to match."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from structure_reg._arrays import Array, as_tensor
from structure_reg._ids import Ids, id_values
from structure_reg.features import manifest as manifests
from structure_reg.features import tensor_file
from structure_reg.features._checks import (
    check_complete,
    check_id_list,
    check_mapping,
    check_new_rows,
    check_row_range,
    no_store,
    no_stored_layer,
    no_unchanged_store,
)
from structure_reg.features.files import sync
from structure_reg.features.lock import WriterLock
from structure_reg.features.manifest import IDS, MANIFEST, LayerFile, Manifest

COMMIT_SECONDS = 5.0


class FeatureStore(Mapping[str, Tensor]):
    """A mapping from layer names to (n, d) features, stored in a directory.

    Opening a store checks every file against the manifest: that it exists, its dtype, shape and
    size, and the checksum of the ids. :meth:`verify` also checks the checksums of the features.
    Nothing is ever unpickled.

    A run that was killed at any point is resumed by running it again: :meth:`create` reopens the
    partial store, and the finished store is byte for byte that of an uninterrupted run. At most the
    last five seconds of work are lost. Only one object of one process may write to a store at a
    time; a second is refused, while any number may read. Give each process its own store, as in the
    example, and merge them with :func:`merge_stores`.

    Parameters
    ----------
    path : str or path
        Directory of a store that :meth:`create` started.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ValueError
        If the files do not match the manifest, or are links.

    See Also
    --------
    extract_features : Fills a store.

    Notes
    -----
    Each layer is a safetensors file with one tensor, ``"features"``, which can be read without this
    library. The manifest and the ids are JSON.

    Examples
    --------
    One process of several, as under torchrun; here rank 0 of a world size of 2:

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
        self.path = Path(path).absolute()  # the working directory may change
        self._manifest = manifests.read(self.path)
        self._on_disk: str | None = self._manifest.text()  # None: unknown after an error
        self._committed = time.monotonic()
        self._lock = WriterLock()
        self.ids: list[str | int] = manifests.read_ids(self.path, self._manifest)
        for layer in self:
            tensor_file.check(*self._file(layer))

    @classmethod
    def create(
        cls,
        path: str | PathLike[str],
        ids: Ids,
        *,
        model: str,
        revision: str | None = None,
        preprocessing: Any = None,
        rows: range | None = None,
    ) -> FeatureStore:
        """Start a store, or reopen the one that an interrupted run left with the same arguments.

        Parameters
        ----------
        path : str or path
            Directory that does not exist yet, is empty, or holds such a store.
        ids : list or array of str or int
            Ids of all samples of the whole dataset; they may repeat.
        model, revision : str
            Name and revision of the encoder, as its publisher gives them.
        preprocessing : object
            Description of the preprocessing of the inputs, in any form that JSON can hold.
        rows : range, optional
            Positions of this store's samples in the dataset: ``range(rank, n, world)`` or
            ``range(start, stop)``. By default, all samples.

        Returns
        -------
        FeatureStore
            The store; its :attr:`done` rows were written before, and their checksums are verified.

        Raises
        ------
        TypeError
            If an argument is of the wrong type, or JSON cannot hold `preprocessing`.
        ValueError
            If an existing store is damaged or was created with other arguments, if the directory
            holds other files, or if `rows` is not within `ids`.
        """
        ids = id_values("FeatureStore.create", "ids", ids)
        check_id_list("FeatureStore.create", ids)
        rows = range(len(ids)) if rows is None else rows
        check_row_range("FeatureStore.create", rows, len(ids))
        path, ids_text = Path(path).absolute(), json.dumps([ids[row] for row in rows])
        expected = manifests.start(model, revision, preprocessing, rows, len(ids), ids_text)
        if not (path / MANIFEST).is_file():
            manifests.start_directory(path, expected, ids_text)
        store = cls(path)
        for fact in ("model", "revision", "preprocessing", "rows", "total", "ids_crc32"):
            found, wanted = getattr(store._manifest, fact), getattr(expected, fact)
            if found != wanted:
                raise no_store(path, f"{fact} {wanted!r}", repr(found))
        store.verify()
        return store

    @property
    def rows(self) -> range:
        """Positions of this store's samples in the dataset."""
        return self._manifest.rows

    @property
    def done(self) -> int:
        """Number of rows written so far: the first `done` of `rows`."""
        return self._manifest.done

    @property
    def pending(self) -> range:
        """Positions of the samples whose rows are still missing."""
        return self.rows[self.done :]

    @property
    def manifest(self) -> Manifest:
        """Model, revision, preprocessing, extraction, dtype, layers and more."""
        return self._manifest

    def record(self, extraction: Any) -> None:
        """Record how the features are extracted; it must not change once there are rows.

        Parameters
        ----------
        extraction : object
            Description of the extraction, in any form that JSON can hold. :func:`extract_features`
            records layers, pool and dtype.

        Raises
        ------
        ValueError
            If the store already has rows from a different extraction.
        """
        found, extraction = self._manifest.extraction, manifests.as_json("extraction", extraction)
        if self.done and extraction != found:
            raise no_store(self.path, f"features extracted with {extraction}", found)
        self._manifest = replace(self._manifest, extraction=extraction)

    def append(self, features: Mapping[str, Array]) -> None:
        """Write the next rows of every layer, or none of them if there is an error.

        After any error, a full disk or an interrupt included, :attr:`done` is as before, and the
        same object or a new one goes on to the same bytes. The first call makes this object the
        only writer, until the store is complete or closed, or an error occurs.

        Parameters
        ----------
        features : mapping of str to Tensor or array, of shape (m, d)
            Rows of ``store.pending[:m]``, of one floating dtype, and for the same layers in every
            call.

        Raises
        ------
        TypeError, ValueError
            If the rows do not fit the store, fewer than m rows are missing, or another object or
            process writes to the store.
        OSError
            If the rows cannot be written.
        """
        widths = self._manifest.widths
        check_mapping(features)
        tensors = {l: as_tensor("FeatureStore.append", str(l), x) for l, x in features.items()}
        check_new_rows(self.path, tensors, widths or None, len(self.pending))
        dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
        if widths and dtype != self._manifest.dtype:
            raise no_store(self.path, f"features in {self._manifest.dtype}", dtype)
        try:
            self._acquire()
            manifest = self._write_rows(tensors, dtype)
            complete = manifest.done == len(self.rows)
            if complete or time.monotonic() - self._committed >= COMMIT_SECONDS:
                self._commit(manifest)
            if complete:
                self._lock.release()
        except BaseException:
            with suppress(OSError):  # then this object stays the only writer
                self._release()
            raise
        self._manifest = manifest

    def close(self) -> None:
        """Commit the rows written so far, and let another object or process write.

        Without it, the lock goes with the object or the process. A closed store can still be read,
        and appended to again if no other writer has changed it.

        Raises
        ------
        OSError
            If the rows cannot be committed; :attr:`done` is then what the disk holds.
        """
        try:
            self._release()
        except BaseException:
            self._manifest = manifests.read(self.path)
            self._on_disk = self._manifest.text()
            raise
        finally:
            self._lock.release()

    def verify(self) -> None:
        """Read all features written so far, and raise a ValueError if a checksum differs."""
        for layer, file in self._manifest.layers.items():
            found = tensor_file.checksum(*self._file(layer), self.done)
            if found != file.crc32:
                raise no_store(self.path, f"checksum {file.crc32} of {file.file}", found)

    def __getitem__(self, layer: str) -> Tensor:
        """Return a layer's features, memory-mapped; changes to them do not reach the file."""
        if layer not in self._manifest.layers:
            raise no_stored_layer(layer, self._manifest.layers)
        check_complete(self.path, self.done, len(self.rows))
        return tensor_file.map_tensor(*self._file(layer))

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the layers."""
        return iter(self._manifest.layers)

    def __len__(self) -> int:
        """Return the number of layers."""
        return len(self._manifest.layers)

    def __repr__(self) -> str:
        """Return the number of rows and the width of each layer."""
        widths = [f"{layer!r}: {width}" for layer, width in self._manifest.widths.items()]
        return f"FeatureStore({self.done} of {len(self.rows)} rows; {', '.join(widths)})"

    def _file(self, layer: str) -> tuple[Path, str, int, int]:
        file = self._manifest.layers[layer]
        return self.path / file.file, str(self._manifest.dtype), len(self.rows), file.width

    def _acquire(self) -> None:
        """Become the only writer, unless another one has changed the store."""
        if self._lock.held:
            return
        self._lock.acquire(self.path / IDS)
        unchanged = False
        try:
            unchanged = manifests.read(self.path).text() == self._on_disk
        finally:
            if not unchanged:
                self._lock.release()
        if not unchanged:
            raise no_unchanged_store(self.path)

    def _release(self) -> None:
        """Let others write, once the disk holds what this object knows."""
        if self._lock.held and self._manifest.text() != self._on_disk:
            self._commit(self._manifest)
        self._lock.release()

    def _write_rows(self, features: Mapping[str, Tensor], dtype: str) -> Manifest:
        """Write rows after those that are done, and return the manifest that counts them."""
        n, start = len(self.rows), self.done
        layers = dict(self._manifest.layers) or self._create_files(features, dtype)
        for layer, file in layers.items():
            path, x = self.path / file.file, features[layer].detach()
            crc32 = tensor_file.write_rows(path, dtype, n, start, x, file.crc32)
            layers[layer] = LayerFile(file.file, file.width, crc32)
        m = len(next(iter(features.values())))
        return replace(self._manifest, layers=layers, dtype=dtype, done=start + m)

    def _create_files(self, features: Mapping[str, Tensor], dtype: str) -> dict[str, LayerFile]:
        layers = {}
        for position, (layer, x) in enumerate(features.items()):
            name = manifests.file_name(position, layer)
            layers[layer] = LayerFile(name, x.shape[1], zlib.crc32(b""))
            tensor_file.create(self.path / name, dtype, len(self.rows), x.shape[1])
        return layers

    def _commit(self, manifest: Manifest) -> None:
        """Write the rows to the disk first, and then the manifest that counts them."""
        self._on_disk = None
        for file in manifest.layers.values():
            sync(self.path / file.file)
        manifest.write(self.path)
        self._on_disk = manifest.text()
        self._committed = time.monotonic()
