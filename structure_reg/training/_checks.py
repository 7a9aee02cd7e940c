"""Every error of aligning, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection, Sequence, Sized
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import check_choice, check_count, check_number


def check_matrix(function: str, name: str, x: Tensor) -> None:
    if x.ndim != 2 or not x.is_floating_point():
        raise ValueError(
            f"{function}: expected {name} of shape (n, d) and a floating dtype, "
            f"got {tuple(x.shape)} and {x.dtype}"
        )


def check_id_count(function: str, ids: Sized, x: Sized) -> None:
    if len(ids) != len(x):
        raise ValueError(f"{function}: expected {len(x)} ids, one for each pair, got {len(ids)}")


def check_pairs(function: str, x: Sized, y: Sized, least: int) -> None:
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


def check_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(
            f"Aligner.fit: expected callback to be callable, got {type(callback).__name__}"
        )


def check_layer_choice(layers: Any) -> None:
    if isinstance(layers, str):
        check_choice("Aligner", "layers", layers, ("blend", "select", "last", "all"))
    elif isinstance(layers, Integral) and not isinstance(layers, bool):
        check_count("Aligner", "layers", layers)
    elif not isinstance(layers, tuple | list) or len(layers) != 2:
        raise TypeError(
            "Aligner: expected layers to be 'blend', 'select', 'last', 'all', a number of layers, "
            f"or a layer or a list of layers for each side, got {type(layers).__name__}"
        )


def check_layer_rows(function: str, name: str, layers: Sequence[Sized]) -> None:
    counts = sorted({len(rows) for rows in layers})
    if len(counts) > 1:
        got = " and ".join(map(str, counts))
        raise ValueError(
            f"{function}: expected the layers of {name} with the same number of rows, got {got}"
        )


def check_blend(function: str, name: str, layers: Sequence[Any]) -> None:
    if not layers:
        raise ValueError(f"{function}: expected a blend of at least one layer of {name}, got none")


def no_blend(function: str, name: str, layers: Sequence[Any]) -> ValueError:
    return ValueError(
        f"{function}: expected {name} with the layers {', '.join(map(repr, layers))}, "
        "as a list or a mapping, got one array"
    )


def check_seed(function: str, seed: Any) -> None:
    """Refuse what no generator of PyTorch takes."""
    check_count(function, "seed", seed, least=-(2**63))
    if seed >= 2**64:
        raise ValueError(f"{function}: expected seed < 2**64, got {seed}")


def check_option_names(kind: str, options: Collection[str], names: Collection[str]) -> None:
    unknown = [name for name in options if name not in names]
    if unknown:
        raise ValueError(
            f"{kind}.set_params: expected options of {kind}, which are {', '.join(names)}, "
            f"got {', '.join(unknown)}"
        )


def check_not_constant(function: str, name: str, x: Tensor) -> None:
    check_varies(function, name, not (x == x[0]).all(), len(x))


def check_varies(function: str, name: str, varies: bool, n: int) -> None:
    if not varies:
        raise ValueError(
            f"{function}: expected {name} with rows that differ, got the same row {n} times"
        )


def check_directions(name: str, directions: float) -> None:
    """Refuse rows that are multiples of one another: STRUCTURE sees directions only."""
    if directions < 1.001:
        raise ValueError(
            f"Aligner.fit: expected {name} with rows in different directions, for STRUCTURE to "
            "preserve, got rows in one direction; structure_weight=0 trains without it"
        )


def check_held_out_loss(monitor: str) -> None:
    if monitor == "objective":
        raise ValueError(
            "Aligner.fit: expected validation of pairs for monitor='objective', got y_ids, with "
            "which rows have no partner; monitor='recall' takes them"
        )


def check_y_ids(function: str, ids: Any) -> None:
    if ids is None:
        raise ValueError(f"{function}: expected ids with y_ids, got y_ids alone")


def check_row_ids(function: str, side: str, name: str, x: Sized, ids: Sequence[Any]) -> None:
    if len(ids) != len(x) or not ids:
        raise ValueError(
            f"{function}: expected {max(1, len(x))} {name}, one for each row of {side}, "
            f"got {len(ids)}"
        )


def check_device_name(device: Any) -> None:
    if device is None:
        return
    try:
        torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"Aligner: expected device to be a device of PyTorch, got {device!r}"
        ) from error


def no_finite_heads() -> ValueError:
    return ValueError(
        "Aligner.fit: expected training to stay finite, got heads with NaN or infinity; "
        "a lower lr, structure_weight or weight_decay keeps them finite"
    )


def no_layer_text(name: str, layer: Any) -> TypeError:
    return TypeError(
        f"Aligner.save: expected the layer of {name} to be named by a string, a number or a tuple "
        f"of them, got {type(layer).__name__}"
    )


def check_lr(lr: Any) -> None:
    if isinstance(lr, str):
        check_choice("Aligner", "lr", lr, ("find",))
    else:
        check_number("Aligner", "lr", lr, above=0.0)


def check_number_or_none(name: str, value: Any, **bounds: float) -> None:
    if value is not None:
        check_number("Aligner", name, value, **bounds)


def check_count_or_none(name: str, value: Any) -> None:
    if value is not None:
        check_count("Aligner", name, value)


def check_module(name: str, module: Any) -> None:
    if module is not None and not isinstance(module, nn.Module):
        raise TypeError(f"Aligner: expected {name} to be a module, got {type(module).__name__}")


def check_validation(validation: Any) -> None:
    if not isinstance(validation, tuple | list) or len(validation) not in (2, 3, 4):
        raise TypeError(
            "Aligner.fit: expected validation to be (x, y), (x, y, ids) or (x, y, ids, y_ids), "
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


def no_matrix(head: nn.Module) -> TypeError:
    return TypeError(f"Side.matrix: expected a linear head, got {type(head).__name__}")


def check_same(function: str, name: str, values: Sequence[Any]) -> None:
    """Refuse what differs between processes; `values` are in rank order."""
    for value in values:
        if value != values[0]:
            raise ValueError(
                f"{function}: expected the same {name} on every process, "
                f"got {values[0]} and {value}"
            )


def check_shard_rows(
    function: str, name: str, counts: Sequence[int], others: Sequence[int]
) -> None:
    if counts != others:
        raise ValueError(
            f"{function}: expected {name} with the same number of rows on each process, "
            f"got {counts} and {others}"
        )


def check_backend(function: str, device: torch.device, group: Any) -> None:
    backends = torch.distributed.get_backend_config(group)  # "cpu:gloo,cuda:nccl"
    if device.type not in {backend.partition(":")[0] for backend in backends.split(",")}:
        raise ValueError(
            f"{function}: expected a group with a backend for {device.type}, where the rows are, "
            f"got {backends}"
        )


def no_success(rank: int, kind: str, message: str) -> Exception:
    """What one process met, as every process of the group says it."""
    kinds = {"TypeError": TypeError, "ValueError": ValueError}
    if kind in kinds:
        return kinds[kind](f"{message}, on process {rank}")
    return RuntimeError(
        f"Aligner.fit: expected all processes to read their rows, got {kind} on process {rank}: "
        f"{message}"
    )
