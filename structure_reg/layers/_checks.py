"""Errors of measuring and choosing layers, worded as in :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real
from typing import Any

from torch import Tensor

from structure_reg._checks import check_choice


def check_metric(function: str, metric: Any, names: Collection[str]) -> None:
    """Refuse a metric that is neither a function nor one of the names."""
    if not callable(metric):
        check_choice(function, "metric", metric, names)


def check_no_k(function: str, k: Any, metric: Any) -> None:
    """Refuse k for a metric that has no neighbourhoods."""
    if k is not None:
        raise ValueError(f"{function}: expected k=None with the metric {metric!r}, got {k!r}")


def check_score(function: str, score: Any) -> None:
    """Refuse a result of the user's metric that is not a scalar."""
    if isinstance(score, Tensor):
        if score.numel() != 1:
            raise ValueError(
                f"{function}: expected metric to return a scalar, got shape {tuple(score.shape)}"
            )
    elif not isinstance(score, Real):
        raise TypeError(
            f"{function}: expected metric to return a scalar, got {type(score).__name__}"
        )


def check_finite_score(function: str, scores: Tensor) -> None:
    """Refuse a grid of scores without a finite one."""
    if not scores.isfinite().any():
        raise ValueError(f"{function}: expected a finite score for one pair of layers, got none")
