"""Every error of choosing layers, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

from torch import Tensor

from structure_reg._checks import check_choice


def check_k_unused(function: str, k: Any, metric: Any) -> None:
    if k is not None:
        raise ValueError(f"{function}: expected k=None with the metric {metric!r}, got {k!r}")


def check_metric(function: str, metric: Any, names: Collection[str]) -> None:
    if not callable(metric):
        check_choice(function, "metric", metric, names)


def check_score(function: str, score: Any) -> None:
    """Refuse what a user's metric must not return: anything but a scalar."""
    if isinstance(score, Tensor):
        if score.numel() != 1:
            raise ValueError(
                f"{function}: expected metric to return a scalar, got shape {tuple(score.shape)}"
            )
    elif not isinstance(score, Real):
        raise TypeError(
            f"{function}: expected metric to return a scalar, got {type(score).__name__}"
        )


def check_any_score(function: str, found: bool) -> None:
    if not found:
        raise ValueError(f"{function}: expected a finite score for one pair of layers, got none")
