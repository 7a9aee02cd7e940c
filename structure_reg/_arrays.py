"""Features as tensors: a tensor stays what it is, anything that NumPy can read becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from structure_reg._checks import (
    check_dense,
    check_no_mask,
    is_missing,
    no_array,
    no_even_rows,
    no_layer_list,
    no_numbers,
    no_readable_array,
)

if TYPE_CHECKING:  # numpy.typing takes milliseconds of start-up
    from numpy.typing import ArrayLike, NDArray

    Array = Tensor | ArrayLike
else:
    Array = Any


def as_tensors(function: str, **arrays: Any) -> tuple[Tensor, ...]:
    """All arguments as tensors; the keywords name them in errors."""
    return tuple(as_tensor(function, name, x) for name, x in arrays.items())


def as_tensor(function: str, name: str, x: Any) -> Tensor:
    """Return a tensor as it is, and an array as a tensor of its dtype, sharing memory if possible.

    Shapes and dtypes are left to the checks.
    """
    if isinstance(x, Tensor):
        return x
    if isinstance(x, list | tuple) and any(isinstance(row, Tensor) for row in x):
        rows = [as_tensor(function, f"{name}[{i}]", row) for i, row in enumerate(x)]
        if len({(row.shape, row.dtype, row.device) for row in rows}) > 1:
            raise no_even_rows(function, name)
        return torch.stack(rows)
    a = as_array(function, name, x)
    if isinstance(a, Tensor):
        return a
    if a.dtype == object and a.ndim == 1 and len(a) and is_array(a[0]):
        return as_tensor(function, name, list(a))  # a column that holds the rows
    return from_numpy(as_numbers(function, name, a, x))


def layer_tensors(function: str, name: str, layers: Any) -> dict[Any, Tensor]:
    """The layers of one side as tensors, by name or position."""
    if not has_layers(layers):
        raise no_layer_list(function, name, layers)
    by_key = layers if isinstance(layers, Mapping) else dict(enumerate(layers))
    return {l: as_tensor(function, f"{name}[{l!r}]", x) for l, x in by_key.items()}


def has_layers(features: Any) -> bool:
    """Whether features are a list or mapping of arrays, not one array."""
    is_list = isinstance(features, Sequence) and not isinstance(features, str | bytes)
    return (is_list or isinstance(features, Mapping)) and not hasattr(features, "__array__")


def is_one_array(features: Any) -> bool:
    """Whether a list holds rows of numbers, and so is one array."""
    return isinstance(features, list | tuple) and bool(features) and axes(features[0]) == 1


def is_array(x: Any) -> bool:
    return isinstance(x, list | tuple) or hasattr(x, "__array__")


def axes(x: Any) -> int:
    """Number of axes; lists, and arrays that may hold rows, are judged by their first entries."""
    shape = getattr(x, "shape", ())
    if isinstance(x, list | tuple) or len(shape) == 1:
        return 1 + axes(next(iter(x), None))
    return len(shape)


def as_array(function: str, name: str, x: Any) -> NDArray[Any] | Tensor:
    """`x` as NumPy reads it; sparse or masked data, which it would misread, is refused."""
    for part in x if isinstance(x, list | tuple) else (x,):
        check_dense(function, name, part)
        check_no_mask(function, name, part)
    try:
        a = np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        if hasattr(x, "__dlpack__"):  # an array on a GPU, which NumPy does not read
            return torch.utils.dlpack.from_dlpack(x)
        raise no_readable_array(function, name, error) from error
    if a.ndim == 0 and not is_array(x):
        raise no_array(function, name, x)
    return a


def as_numbers(function: str, name: str, a: NDArray[Any], x: Any) -> NDArray[Any]:
    """`a` in a dtype that PyTorch has; `x` is what the user passed, which may name its columns."""
    if a.dtype.kind in "biufc" or a.dtype.name == "bfloat16":
        # Numbers of 10 to 16 bytes, which only NumPy has, are rounded to 8.
        wide = {"f": np.float64, "c": np.complex128}.get(a.dtype.kind)
        return a.astype(wide if wide and a.dtype > wide else a.dtype.newbyteorder("="), copy=False)
    if a.dtype == object:
        a = np.frompyfunc(lambda entry: np.nan if is_missing(entry) else entry, 1, 1)(a)
    if is_numeric(a):
        return a.astype(np.float64 if a.dtype == object else np.float32)
    columns = list(getattr(x, "columns", ()))
    named = zip(columns, a.T, strict=True) if a.ndim == 2 and columns else ()
    raise no_numbers(function, name, a, [column for column, z in named if not is_numeric(z)])


def is_numeric(a: NDArray[Any]) -> bool:
    """Whether all entries of objects, or of a dtype beyond NumPy's own, are numbers."""
    if a.dtype.kind not in "OV" or any(isinstance(entry, str | bytes) for entry in a.flat):
        return False
    try:
        a.astype(np.float64)
    except (TypeError, ValueError):
        return False
    return True


def from_numpy(a: NDArray[Any]) -> Tensor:
    """The same memory as a tensor, unless its layout is one that PyTorch does not have."""
    if a.dtype.name == "bfloat16":
        return from_numpy(a.view(np.int16)).view(torch.bfloat16)
    if not a.flags.aligned or any(step < 0 or step % a.itemsize for step in a.strides):
        a = a.copy()
    return torch.from_numpy(a if a.flags.writeable else np.asarray(DeclaredWritable(a)))


class DeclaredWritable:
    """Read-only memory without its flag, of which PyTorch warns: here no input is written to."""

    def __init__(self, a: NDArray[Any]) -> None:
        self.owner = a  # keeps the memory alive
        self.__array_interface__ = {**a.__array_interface__, "data": (a.ctypes.data, False)}
