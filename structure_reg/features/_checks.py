"""Every error of encoders and feature stores, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import FLOATS, check_choice, check_features

MANY = 20  # names that a message lists


def check_encoder(function: str, name: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: expected {name} to be an nn.Module, got {kind(model)}")


def check_wanted(function: str, layers: Any) -> None:
    """Refuse layers that are neither "all" nor a list of names and numbers without repetition."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(
                f"{function}: expected layers to be 'all' or a list, got {layers!r}; "
                f"one layer is [{layers!r}]"
            )
        return
    if not isinstance(layers, Sequence):
        raise TypeError(f"{function}: expected layers to be 'all' or a list, got {kind(layers)}")
    if not layers:
        raise ValueError(f"{function}: expected at least one layer, got none")
    for layer in layers:
        if not isinstance(layer, str | int) or isinstance(layer, bool):
            raise TypeError(f"{function}: expected layers of names and numbers, got {kind(layer)}")
        if layers.count(layer) > 1:
            raise no_second(function, layer)


def no_second(function: str, layer: str | int) -> ValueError:
    return ValueError(f"{function}: expected each layer once, got {layer!r} twice")


def no_numbers(
    function: str, layer: str | int, model: nn.Module, names: Collection[str]
) -> ValueError:
    return ValueError(
        f"{function}: expected a list of module names, because {kind(model)} has neither "
        f"hidden_states nor forward_intermediates, got {layer!r}; it has {listed(names)}"
    )


def no_module(function: str, layer: str, model: nn.Module, names: Collection[str]) -> ValueError:
    near = get_close_matches(layer, names, n=MANY)
    has = f"nearest are {listed(near)}" if near else f"it has {listed(names)}"
    return ValueError(f"{function}: expected modules of {kind(model)}, got {layer!r}; {has}")


def check_name(function: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: expected {name} to name a module, got {kind(value)}")


def no_reference(function: str, layer: str) -> ValueError:
    return ValueError(
        f"{function}: expected rows of {layer!r} from a forward pass of the model, got none; "
        "call the tapped model itself, in a way that runs this layer"
    )


def no_number(function: str, layer: int, source: str, count: int) -> ValueError:
    return ValueError(
        f"{function}: expected numbers of {source} from 0 to {count - 1}, or negative from the "
        f"last, got {layer}"
    )


def no_output(function: str, source: str, model: nn.Module, output: Any) -> ValueError:
    return ValueError(
        f"{function}: expected {kind(model)} to return {source}, got {kind(output)}; "
        "of a model with several encoders, pass one"
    )


def check_ran(function: str, layers: Collection[str], ran: Collection[str]) -> None:
    idle = [layer for layer in layers if layer not in ran]
    if idle:
        raise ValueError(
            f"{function}: expected every layer to run in the forward pass, got none from "
            f"{listed(idle)}"
        )


def check_pool(function: str, pool: Any, names: Collection[str]) -> None:
    if not callable(pool):
        check_choice(function, "pool", pool, names)


def check_layer_output(function: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{function}: expected a layer to return a tensor, or a tuple that begins with one, "
            f"got {kind(x)}"
        )
    if x.dtype not in FLOATS:
        raise TypeError(f"{function}: expected a layer to return floating numbers, got {x.dtype}")


def check_poolable(function: str, x: Tensor, pool: str) -> None:
    if x.ndim < 2:
        raise ValueError(
            f"{function}: expected a layer of (B, d) rows, (B, L, d) tokens or (B, C, ...) maps, "
            f"got shape {tuple(x.shape)}"
        )
    if x.ndim > 3 and pool != "mean":
        raise ValueError(
            f"{function}: expected pool='mean' or a function for maps of shape (B, C, ...), "
            f"got {pool!r} for shape {tuple(x.shape)}"
        )


def check_mask_kind(function: str, mask: Any) -> None:
    if mask is not None and not isinstance(mask, Tensor):
        raise TypeError(f"{function}: expected the mask to be a tensor, got {kind(mask)}")


def check_token_mask(function: str, mask: Tensor, x: Tensor) -> None:
    """Refuse a mask that does not fit its tokens, or hides all tokens of a sample.

    A mask that is the wrong way round hides the samples without a pad, so its values are read.
    """
    check_mask_shape(function, mask, x)
    hidden = (mask == 0).all(1).nonzero().flatten().tolist()
    if hidden:
        raise ValueError(
            f"{function}: expected a mask with at least one token in every row, got none in rows "
            f"{listed(hidden)} of a batch"
        )


def check_mask_shape(function: str, mask: Tensor, x: Tensor) -> None:
    if mask.shape != x.shape[:2]:
        raise ValueError(
            f"{function}: expected a mask of shape {tuple(x.shape[:2])} for tokens of shape "
            f"{tuple(x.shape)}, got {tuple(mask.shape)}"
        )


def check_pooled(function: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or x.dtype not in FLOATS:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else kind(x)
        raise ValueError(f"{function}: expected pool to return floats of shape (B, d), got {got}")


def check_samples(function: str, features: Mapping[str, Tensor], samples: int | None) -> None:
    """Refuse layers without one row for each sample; None: for as many as the first layer has."""
    for layer, x in features.items():
        samples = len(x) if samples is None else samples
        if len(x) != samples:
            raise ValueError(
                f"{function}: expected one row of {layer!r} for each of the {samples} samples of "
                f"a batch, got {len(x)}; where samples are not the first axis, pool by a function"
            )


def check_float_dtype(function: str, dtype: Any) -> None:
    if dtype is not None and dtype not in FLOATS:
        listing = ", ".join(str(one).removeprefix("torch.") for one in FLOATS)
        raise TypeError(f"{function}: expected dtype to be one of {listing}, got {dtype!r}")


def no_batch(function: str) -> ValueError:
    return ValueError(f"{function}: expected at least one batch, got none")


def no_samples(function: str, batch: Any) -> ValueError:
    return ValueError(f"{function}: expected a batch with a tensor in it, got {kind(batch)}")


def no_manifest(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"FeatureStore: expected a manifest in {path}, got none")


def no_store(path: Path, expected: str, got: Any) -> ValueError:
    """A store that is not what its manifest says, or not what was asked for."""
    return ValueError(f"FeatureStore: expected {expected} in {path}, got {got}")


def no_stored_layer(layer: object, layers: Collection[str]) -> KeyError:
    return KeyError(f"FeatureStore: expected one of {listed(layers)}, got {layer!r}")


def check_store(function: str, store: Any, expected: type) -> None:
    if store is not None and not isinstance(store, expected):
        raise TypeError(f"{function}: expected store to be a FeatureStore, got {kind(store)}")


def check_all_rows(path: Path, done: int, rows: int) -> None:
    if done != rows:
        raise no_store(path, f"all {rows} rows", f"{done}; the run that makes them resumes")


def check_id_list(function: str, ids: Any) -> None:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"{function}: expected ids to be a list, got {kind(ids)}")
    if not ids:
        raise ValueError(f"{function}: expected at least one id, got none")
    for one in ids:
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise TypeError(f"{function}: expected ids of strings or integers, got {kind(one)}")


def check_range(function: str, rows: Any, total: int) -> None:
    if not isinstance(rows, range):
        raise TypeError(f"{function}: expected rows to be a range, got {kind(rows)}")
    if not rows or rows.step < 1 or rows[0] < 0 or rows[-1] >= total:
        raise ValueError(
            f"{function}: expected rows to be an ascending range within the {total} ids, got {rows}"
        )


def check_appended(path: Path, features: Any, layers: Mapping[str, int] | None, room: int) -> None:
    """Refuse rows that are not (m, d) tensors of the store's layers, or more than are missing."""
    if not isinstance(features, Mapping):
        raise TypeError(
            f"FeatureStore.append: expected a mapping from layer to tensor, got {kind(features)}"
        )
    check_features("FeatureStore.append", rows=1, **{str(l): x for l, x in features.items()})
    widths = {layer: x.shape[1] for layer, x in features.items()}
    if not widths or not all(isinstance(layer, str) for layer in widths):
        raise no_store(path, "layers with names", listed(widths) if widths else "none")
    if layers is not None and widths != layers:
        raise no_store(path, f"layers and widths {dict(layers)}", widths)
    for what, found in (
        ("dtype", {x.dtype for x in features.values()}),
        ("number of rows", {len(x) for x in features.values()}),
    ):
        if len(found) > 1:
            raise no_store(path, f"one {what} for all layers", listed(sorted(map(str, found))))
    m = len(next(iter(features.values())))
    if m > room:
        raise no_store(path, f"at most the {room} rows that are missing", m)


def listed(names: Collection[object]) -> str:
    shown = ", ".join(repr(name) for name, _ in zip(names, range(MANY), strict=False))
    return f"{shown} and {len(names) - MANY} more" if len(names) > MANY else shown


def kind(value: Any) -> str:
    return str(value) if isinstance(value, torch.dtype) else type(value).__name__
