"""Every error of heads and their files, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from structure_reg._checks import check_count, check_number, check_paired
from structure_reg._precision import result_dtype


def check_at_most(function: str, name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{function}: expected {name} <= {most}, got {value}")


def check_dim(function: str, dim: Any, n: int, d_x: int, d_y: int) -> int:
    """Refuse more directions than n pairs of these widths have; None is all of them."""
    most = min(n - 1, d_x, d_y)
    if dim is None:
        return most
    check_count(function, "dim", dim)
    if dim > most:
        raise ValueError(
            f"{function}: expected dim <= {most}, the least of n - 1 and both widths, got {dim}"
        )
    return int(dim)


def check_two(function: str, name: str, value: Any) -> tuple[Any, ...]:
    """A value for both sides, or a tuple of one for each."""
    if not isinstance(value, tuple):
        return (value,)
    if len(value) != 2:
        raise ValueError(
            f"{function}: expected {name} to be a number or two of them, got {len(value)}"
        )
    return value


def check_heads(function: str, heads: Sequence[Any], kinds: Mapping[str, type]) -> None:
    if not heads:
        raise ValueError(f"{function}: expected one head at the least, got none")
    for head in heads:
        if type(head) not in kinds.values():
            raise TypeError(
                f"{function}: expected heads that are {', '.join(kinds)}, "
                f"got {type(head).__name__}; for a module of your own use "
                "safetensors.torch.save_model"
            )


def check_fit(
    function: str, x: Tensor, y: Tensor, ridge: float | tuple[float, float] = 0.0
) -> torch.dtype:
    """Refuse what cannot be fitted; the dtype of the heads."""
    check_paired(function, x=x, y=y)
    for of_side in check_two(function, "ridge", ridge):
        check_number(function, "ridge", of_side, least=0.0)
    return result_dtype(x, y)


def check_folds(function: str, distinct: int, least: int) -> None:
    if distinct < least:
        raise ValueError(
            f"{function}: expected at least {least} different pairs to hold some out, "
            f"got {distinct}"
        )


def no_finite_features(function: str, name: str) -> ValueError:
    return ValueError(f"{function}: expected {name} without NaN and infinity, got some")


def no_heads_file(function: str, path: Any, got: str) -> ValueError:
    writer = {"load_heads": "save_heads", "Aligner.load": "Aligner.save"}[function]
    return ValueError(f"{function}: expected {path} to be what {writer} wrote, got {got}")


def no_package(function: str, package: str) -> ImportError:
    return ImportError(
        f"{function}: expected the package {package}, got none; `pip install {package}`"
    )
