"""The kinds of ids that rows arrive with, each made from small non-negative integers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import torch
import xarray as xr

Ints = list[int]


def days(ids: Ints, unit: str) -> Any:
    return np.datetime64("2020-01-01", unit) + np.array(ids) * np.timedelta64(1, "D")


# Kinds of one group hold the same values, so that ids of one kind match y_ids of another.
GROUPS: dict[str, dict[str, Callable[[Ints], Any]]] = {
    "integers": {
        **{
            f"tensor of {dtype}": lambda ids, dtype=dtype: torch.tensor(ids).to(dtype)
            for dtype in (
                *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
                *(torch.uint16, torch.uint32, torch.uint64),
            )
        },
        **{
            f"array of {dtype}": lambda ids, dtype=dtype: np.array(ids, dtype=dtype)
            for dtype in ("int8", "uint8", "int64", "uint64", ">i4", "float64", "object")
        },
        "column": lambda ids: torch.tensor(ids)[:, None],
        "column of an array": lambda ids: np.array(ids)[:, None],
        "one column of a DataFrame": lambda ids: pd.DataFrame({"id": ids}),
        "list": list,
        "tuple": tuple,
        "list of tensors": lambda ids: list(torch.tensor(ids)),
        "list of tensors of one entry": lambda ids: list(torch.tensor(ids)[:, None]),
        "list of NumPy integers": lambda ids: list(np.array(ids)),
        "list of arrays of one entry": lambda ids: list(np.array(ids)[:, None]),
        "Series": lambda ids: pd.Series(ids, index=np.arange(len(ids)) + 3),
        "nullable Series": lambda ids: pd.Series(ids, dtype="Int64"),
        "Index": lambda ids: pd.Index(ids),
        "Categorical": lambda ids: pd.Categorical(ids),
        "categorical Series": lambda ids: pd.Series(ids).astype("category"),
        "polars": lambda ids: pl.Series(ids),
        "xarray": lambda ids: xr.DataArray(np.array(ids)),
        "unmasked": lambda ids: np.ma.masked_array(ids, mask=[False] * len(ids)),
        "generator": lambda ids: (i for i in ids),
    },
    "large integers": {
        "list": lambda ids: [i + 2**70 for i in ids],
        "objects": lambda ids: np.array([i + 2**70 for i in ids], dtype=object),
    },
    "unsigned beyond int64": {
        "array": lambda ids: np.array(ids, dtype="uint64") + np.uint64(2**63),
        "tensor": lambda ids: torch.from_numpy(np.array(ids, dtype="uint64") + np.uint64(2**63)),
        "list": lambda ids: [i + 2**63 for i in ids],
    },
    "strings": {
        "list": lambda ids: [f"case {i}" for i in ids],
        "array": lambda ids: np.array([f"case {i}" for i in ids]),
        "objects": lambda ids: np.array([f"case {i}" for i in ids], dtype=object),
        "Series": lambda ids: pd.Series([f"case {i}" for i in ids]),
        "string Series": lambda ids: pd.Series([f"case {i}" for i in ids], dtype="string"),
        "categorical": lambda ids: pd.Categorical([f"case {i}" for i in ids]),
        "polars": lambda ids: pl.Series([f"case {i}" for i in ids]),
    },
    "bytes": {
        "list": lambda ids: [f"{i}".encode() for i in ids],
        "array": lambda ids: np.array([f"{i}".encode() for i in ids]),
    },
    "UUIDs": {"list": lambda ids: [UUID(int=i) for i in ids]},
    "days": {
        "dates": lambda ids: [date(2020, 1, 1) + timedelta(i) for i in ids],
        "datetimes": lambda ids: [datetime(2020, 1, 1) + timedelta(i) for i in ids],
        "NumPy days": lambda ids: days(ids, "D"),
        "NumPy seconds": lambda ids: days(ids, "s"),
        "NumPy nanoseconds": lambda ids: days(ids, "ns"),
        "list of NumPy nanoseconds": lambda ids: list(days(ids, "ns")),
        "Timestamps": lambda ids: list(pd.Series(days(ids, "ns"))),
        "Series": lambda ids: pd.Series(days(ids, "ns")),
        "polars": lambda ids: pl.Series(days(ids, "us")),
    },
    "nanoseconds": {
        "NumPy": lambda ids: np.datetime64("2020-01-01", "ns") + np.array(ids),
        "list of NumPy": lambda ids: list(np.datetime64("2020-01-01", "ns") + np.array(ids)),
    },
    "tuples": {
        "list": lambda ids: [("patient", i) for i in ids],
        "of NumPy": lambda ids: [(np.str_("patient"), np.int64(i)) for i in ids],
        "of tensors": lambda ids: [("patient", torch.tensor(i)) for i in ids],
        "MultiIndex": lambda ids: pd.MultiIndex.from_tuples([("patient", i) for i in ids]),
        "records": lambda ids: np.array([("patient", i) for i in ids], "U9, i8"),
    },
}
KINDS = {f"{group}, {kind}": make for group, of in GROUPS.items() for kind, make in of.items()}
