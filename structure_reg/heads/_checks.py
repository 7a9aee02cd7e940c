"""Every error of heads and their files, in the form of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from structure_reg._checks import check_count, check_number


def check_moments(function: str, n: int, y: Any) -> None:
    """Refuse moments of fewer than 2 pairs, or with y beside them."""
    if y is not None:
        raise TypeError(
            f"{function}: expected PairMoments without y, because they hold both sides, "
            f"got {type(y).__name__}"
        )
    if n < 2:
        raise ValueError(f"{function}: expected moments of at least 2 pairs, got {n}")


def check_number_or_none(function: str, name: str, value: Any, *, least: float) -> float | None:
    return None if value is None else check_number(function, name, value, least=least)


def check_ridge(function: str, ridge: Any) -> None:
    """Refuse all but None, a ridge for both sides, or a tuple of one for each side."""
    if ridge is None:
        return
    if isinstance(ridge, tuple) and len(ridge) != 2:
        raise ValueError(f"{function}: expected ridge to be one number or two, got {len(ridge)}")
    for value in ridge if isinstance(ridge, tuple) else (ridge,):
        check_number(function, "ridge", value, least=0.0)


def check_dim(function: str, dim: Any, n: int, d_x: int, d_y: int) -> int:
    """Return the number of directions, by default all; refuse more than n pairs determine."""
    most = min(n - 1, d_x, d_y)
    if dim is None:
        return most
    directions = check_count(function, "dim", dim)
    if directions > most:
        raise ValueError(f"{function}: expected dim <= min(n - 1, d_x, d_y) = {most}, got {dim}")
    return directions


def check_at_most(function: str, name: str, value: int, most: int) -> None:
    if value > most:
        raise ValueError(f"{function}: expected {name} <= {most}, got {value}")


def check_folds(function: str, distinct: int, least: int) -> None:
    if distinct < least:
        raise ValueError(
            f"{function}: expected at least {least} pairs with different ids for cross-validation, "
            f"got {distinct}"
        )


def no_held_out_pairs(function: str) -> ValueError:
    return ValueError(
        f"{function}: expected ridge to be a number with PairMoments, which keep no pairs to hold "
        "out, got None"
    )


def no_pairs(function: str) -> ValueError:
    return ValueError(f"{function}: expected at least one pair, got none")


def no_finite_features(function: str, name: str) -> ValueError:
    return ValueError(f"{function}: expected {name} to be finite, got NaN or infinity")


def check_heads(function: str, heads: Sequence[Any], kinds: Mapping[str, type]) -> None:
    if not heads:
        raise ValueError(f"{function}: expected at least one head, got none")
    for head in heads:
        if type(head) not in kinds.values():
            raise TypeError(
                f"{function}: expected heads that are one of {', '.join(kinds)}, "
                f"got {type(head).__name__}; to store other modules, use "
                "safetensors.torch.save_model"
            )


def no_heads_file(function: str, path: Any, got: str) -> ValueError:
    writer = {"load_heads": "save_heads", "Aligner.load": "Aligner.save"}[function]
    return ValueError(f"{function}: expected {path} to be what {writer} wrote, got {got}")


def no_package(function: str, package: str) -> ImportError:
    return ImportError(
        f"{function}: expected the package {package}, got none; `pip install {package}`"
    )
