"""The kinds of arrays that features arrive in, each made from a float tensor of shape (n, d)."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import polars as pl
import xarray as xr
from torch import Tensor


class OnADevice:
    """An array that NumPy cannot read, as those of CuPy are."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __dlpack__(self, **options: Any) -> Any:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


def read_only(x: Tensor) -> Any:
    a = x.numpy().copy()
    a.flags.writeable = False
    return a


def memory_map(x: Tensor) -> Any:
    with tempfile.TemporaryDirectory() as folder:  # the map outlives the name of its file
        np.save(Path(folder) / "x.npy", x.numpy())
        return np.load(Path(folder) / "x.npy", mmap_mode="r")


def hdf5(x: Tensor) -> Any:
    file = h5py.File.in_memory()
    return file.create_dataset("x", data=x.numpy())


def objects(x: Tensor) -> Any:
    rows = np.empty(len(x), dtype=object)
    rows[:] = list(x.numpy())
    return rows


def fields(x: Tensor) -> Any:
    """A field of records with a byte between the rows: strides that PyTorch does not have."""
    records = np.zeros(len(x), dtype=[("flag", "i1"), ("x", x.numpy().dtype, x.shape[1])])
    records["x"] = x.numpy()
    return records["x"]


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "array": lambda x: x.numpy(),
    "fortran": lambda x: np.asfortranarray(x.numpy()),
    "backwards": lambda x: x.numpy()[::-1, ::-1].copy()[::-1, ::-1],
    "every second row": lambda x: np.repeat(x.numpy(), 2, 0)[::2],
    "big-endian": lambda x: x.numpy().astype(x.numpy().dtype.newbyteorder(">")),
    "a field of records": fields,
    "read-only": read_only,
    "memory map": memory_map,
    "HDF5": hdf5,
    "longdouble": lambda x: x.numpy().astype(np.longdouble),
    "unmasked": lambda x: np.ma.masked_array(x.numpy(), mask=np.zeros(x.shape, bool)),
    "matrix": lambda x: x.numpy().view(np.matrix),
    "objects of numbers": lambda x: x.numpy().astype(object),
    "objects of rows": objects,
    "lists": lambda x: x.tolist(),
    "tuples": lambda x: tuple(map(tuple, x.tolist())),
    "list of arrays": lambda x: list(x.numpy()),
    "list of tensors": list,
    "DataFrame": lambda x: pd.DataFrame(x.numpy(), index=np.arange(len(x)) + 5),
    "nullable DataFrame": lambda x: pd.DataFrame(x.numpy()).convert_dtypes(
        convert_integer=False, convert_string=False
    ),
    "Series of arrays": lambda x: pd.Series(list(x.numpy()), index=np.arange(len(x))[::-1]),
    "Series of lists": lambda x: pd.Series(x.tolist()),
    "polars DataFrame": lambda x: pl.DataFrame(x.numpy()),
    "polars lists": lambda x: pl.Series(list(x.numpy())),
    "polars arrays": lambda x: pl.Series(x.numpy()),
    "xarray": lambda x: xr.DataArray(x.numpy(), dims=("row", "column")),
    "on a device": OnADevice,
}
# Kinds that hold float32 numbers as float64, and kinds whose columns lie together in memory: their
# products add up in another order.
WIDENING = {
    "longdouble",
    "objects of numbers",
    "lists",
    "tuples",
    "nullable DataFrame",
    "Series of lists",
}
BY_COLUMN = {"fortran", "polars DataFrame"}
