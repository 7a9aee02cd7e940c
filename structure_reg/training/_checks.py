"""Every error of aligning, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from structure_reg._checks import check_choice, check_number


def check_matrix(function: str, name: str, x: Tensor) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(
            f"{function}: expected {name} of shape (n, d) and a floating dtype, "
            f"got {tuple(x.shape)} and {x.dtype}"
        )


def check_id_count(function: str, ids: Tensor, x: Tensor) -> None:
    if len(ids) != len(x):
        raise ValueError(f"{function}: expected {len(x)} ids, one for each pair, got {len(ids)}")


def check_pairs(function: str, x: Tensor, y: Tensor, least: int) -> None:
    if len(x) != len(y):
        raise ValueError(
            f"{function}: expected x and y with the same number of rows, got {len(x)} and {len(y)}"
        )
    if len(x) < least:
        raise ValueError(f"{function}: expected at least {least} pairs, got {len(x)}")


def check_finite(function: str, name: str, x: Tensor) -> None:
    if not x.isfinite().all():
        raise ValueError(f"{function}: expected {name} without NaN and infinity, got some")


def check_head(head: Any, names: Collection[str]) -> None:
    if isinstance(head, str):
        check_choice("Aligner", "head", head, names)
    elif isinstance(head, Sequence):
        kinds = [type(module).__name__ for module in head]
        if len(head) != 2 or not all(isinstance(module, nn.Module) for module in head):
            raise TypeError(
                f"Aligner: expected head to be a name, a pair of modules or what makes one, "
                f"got {' and '.join(kinds)}"
            )
    elif not callable(head):
        raise TypeError(
            f"Aligner: expected head to be a name, a pair of modules or what makes one, "
            f"got {type(head).__name__}"
        )


def check_layer_choice(layers: Any) -> None:
    if isinstance(layers, str):
        check_choice("Aligner", "layers", layers, ("select", "last"))
    elif not isinstance(layers, tuple) or len(layers) != 2:
        raise TypeError(
            "Aligner: expected layers to be 'select', 'last' or a pair of them, "
            f"got {type(layers).__name__}"
        )


def check_lr(lr: Any) -> None:
    if isinstance(lr, str):
        check_choice("Aligner", "lr", lr, ("find",))
    else:
        check_number("Aligner", "lr", lr, above=0.0)


def check_number_or_none(name: str, value: Any, **bounds: float) -> None:
    if value is not None:
        check_number("Aligner", name, value, **bounds)


def check_module(name: str, module: Any) -> None:
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f"Aligner: expected {name} to be a module, got {type(module).__name__}")


def check_validation(validation: Any) -> None:
    if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
        raise TypeError(
            "Aligner.fit: expected validation to be (x, y) or (x, y, ids), "
            f"got {type(validation).__name__}"
        )


def check_unpaired(unpaired: Any) -> None:
    if not isinstance(unpaired, tuple | list) or len(unpaired) != 2:
        raise TypeError(
            "Aligner.fit: expected unpaired to be two sets of rows, of x and of y, "
            f"got {type(unpaired).__name__}"
        )


def no_layers(function: str, name: str) -> ValueError:
    return ValueError(f"{function}: expected {name} with at least one layer, got none")


def no_layer(function: str, name: str, layer: Any, names: Sequence[Any]) -> ValueError:
    return ValueError(
        f"{function}: expected a layer of {name}, which has {', '.join(map(repr, names))}, "
        f"got {layer!r}"
    )


def no_fit(function: str) -> RuntimeError:
    return RuntimeError(f"{function}: expected a fitted Aligner, got one before fit")
