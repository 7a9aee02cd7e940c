"""The last step of every loss: the mean or sum of its rows over the global batch."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from structure_reg._distributed import mean_over_processes, processes

REDUCTIONS = ("mean", "sum", "none")


def reduce_rows(rows: Tensor, reduction: str, group: Any = None) -> Tensor:
    """Mean or sum over the rows of all processes; with "none", this process's rows as they are."""
    if reduction == "mean":
        return mean_over_processes(rows.mean(), group)
    if reduction == "sum":
        return mean_over_processes(rows.sum() * processes(group), group)
    return rows
