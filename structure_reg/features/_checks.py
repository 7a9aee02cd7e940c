"""Every error of encoders and feature stores, in the form of :mod:`structure_reg._checks`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from structure_reg._checks import FLOATS, check_choice, check_features

MANY = 20  # names that a message lists
DEPTH = 100  # of nested JSON; Python fails at about 1000


# The model and its layers.


def check_module(function: str, name: str, module: Any) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(f"{function}: expected {name} to be an nn.Module, got {type_name(module)}")


def check_requested_layers(function: str, layers: Any) -> None:
    """Refuse layers that are neither "all" nor a list of distinct names and numbers."""
    if isinstance(layers, str):
        if layers != "all":
            raise ValueError(
                f"{function}: expected layers to be 'all' or a list, got {layers!r}; "
                f"for one layer, pass [{layers!r}]"
            )
        return
    if not isinstance(layers, Sequence):
        raise TypeError(
            f"{function}: expected layers to be 'all' or a list, got {type_name(layers)}"
        )
    if not layers:
        raise ValueError(f"{function}: expected at least one layer, got none")
    for layer in layers:
        if not isinstance(layer, str | int) or isinstance(layer, bool):
            raise TypeError(
                f"{function}: expected layers to be names and numbers, got {type_name(layer)}"
            )
    check_distinct_layers(function, layers)


def check_distinct_layers(function: str, layers: Sequence[str | int]) -> None:
    for layer in layers:
        if layers.count(layer) > 1:
            raise no_repeated_layer(function, layer)


def no_repeated_layer(function: str, layer: str | int) -> ValueError:
    return ValueError(f"{function}: expected each layer once, got {layer!r} twice")


def check_only_modules(
    function: str, layers: str | Sequence[str | int], model: nn.Module, modules: Collection[str]
) -> None:
    """Refuse numbers and "all" for a model without numbered outputs."""
    numbers = [layers] if layers == "all" else [l for l in layers if isinstance(l, int)]
    if numbers:
        raise ValueError(
            f"{function}: expected a list of module names, because {type_name(model)} has neither "
            f"hidden_states nor forward_intermediates, got {numbers[0]!r}; "
            f"its modules are {list_names(named(modules))}"
        )


def check_module_name(function: str, name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{function}: expected {name} to name a module, got {type_name(value)}")


def no_module(function: str, layer: str, model: nn.Module, modules: Collection[str]) -> ValueError:
    close = get_close_matches(layer, named(modules), n=MANY)
    hint = (
        f"the closest names are {list_names(close)}"
        if close
        else f"its modules are {list_names(named(modules))}"
    )
    return ValueError(
        f"{function}: expected the name of a module in {type_name(model)}, got {layer!r}; {hint}"
    )


def named(modules: Collection[str]) -> list[str]:
    """All names but that of the model itself, which is empty."""
    return [name for name in modules if name]


# What layers return.


def check_layers_ran(function: str, layers: Collection[str], ran: Collection[str]) -> None:
    idle = [layer for layer in layers if layer not in ran]
    if idle:
        raise ValueError(
            f"{function}: expected every layer to run in the forward pass, got no output of "
            f"{list_names(idle)}"
        )


def no_tapped_rows(function: str, layer: str) -> ValueError:
    return ValueError(
        f"{function}: expected rows of {layer!r} from a forward pass of the model, got none; "
        "call the tapped model itself, with inputs that reach this layer"
    )


def no_numbered_outputs(function: str, source: str, model: nn.Module, output: Any) -> ValueError:
    return ValueError(
        f"{function}: expected {type_name(model)} to return {source}, got {type_name(output)}; "
        "if the model has several encoders, pass one of them"
    )


def no_output_number(function: str, number: int, source: str, count: int) -> ValueError:
    return ValueError(
        f"{function}: expected an index of {source} from {-count} to {count - 1}, got {number}"
    )


def check_layer_output(function: str, x: Any) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{function}: expected a layer to return a tensor, or a tuple that begins with one, "
            f"got {type_name(x)}"
        )
    if x.dtype not in FLOATS:
        raise TypeError(f"{function}: expected a layer to return floating numbers, got {x.dtype}")


def no_feature_axis(function: str, layer: str, x: Tensor) -> ValueError:
    return ValueError(
        f"{function}: expected {layer!r} to return tokens (B, L, d), got shape {tuple(x.shape)} "
        "after a convolution, which may be (B, C, T) as well; pass a function as pool"
    )


def no_sample_axis(function: str, layers: Collection[str], samples: int) -> ValueError:
    return ValueError(
        f"{function}: expected samples as the first axis of {list_names(layers)}, got {samples} "
        f"samples of {samples} tokens, and a model that does not run on fewer samples to tell "
        "them apart; pass a function as pool, or batches of another size"
    )


# Pooling and masks.


def check_pool(function: str, pool: Any, names: Collection[str]) -> None:
    if not callable(pool):
        check_choice(function, "pool", pool, names)


def check_pool_shape(function: str, x: Tensor, pool: str) -> None:
    """Refuse outputs that the named pools do not cover: "cls" and "last" need tokens."""
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


def check_mask_type(function: str, mask: Any) -> None:
    if mask is not None and not isinstance(mask, Tensor):
        raise TypeError(f"{function}: expected the mask to be a tensor, got {type_name(mask)}")


def no_one_mask(function: str, count: int, x: Tensor) -> ValueError:
    return ValueError(
        f"{function}: expected one mask for tokens of shape {tuple(x.shape)}, got {count} that "
        "differ; pass a function as mask that chooses one"
    )


def no_readable_mask(function: str, name: str) -> ValueError:
    return ValueError(
        f"{function}: expected a mask named 'attention_mask' (nonzero at tokens) or "
        f"'key_padding_mask' (True at padding), got {name!r}, which may mean either; pass "
        "a function as mask that returns it with nonzero at tokens"
    )


def no_tokens(function: str, pool: str) -> ValueError:
    return ValueError(
        f"{function}: expected a mask for pool={pool!r} of token ids, which may be padded, got "
        "none; pass a function as mask, one that returns None if there is no padding"
    )


def check_mask_shape(function: str, mask: Tensor, x: Tensor) -> None:
    if mask.shape != x.shape[:2]:
        raise ValueError(
            f"{function}: expected a mask of shape {tuple(x.shape[:2])} for tokens of shape "
            f"{tuple(x.shape)}, got {tuple(mask.shape)}"
        )


def check_token_mask(function: str, mask: Tensor, x: Tensor) -> None:
    """Refuse a mask of the wrong shape, or one that hides all tokens of a sample.

    An inverted mask hides every sample without a pad, so this check reads values.
    """
    check_mask_shape(function, mask, x)
    if mask.is_floating_point() and bool((mask < 0).any()):
        raise ValueError(
            f"{function}: expected a mask of zeros at padding and ones at tokens, got entries "
            "below zero, as of a mask that is added to scores"
        )
    hidden = (mask == 0).all(1).nonzero().flatten().tolist()
    if hidden:
        raise ValueError(
            f"{function}: expected a mask with at least one token in every row, got none in rows "
            f"{list_names(hidden)} of a batch"
        )


def check_pooled_rows(function: str, x: Any) -> None:
    if not isinstance(x, Tensor) or x.ndim != 2 or x.dtype not in FLOATS:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type_name(x)
        raise ValueError(f"{function}: expected pool to return floats of shape (B, d), got {got}")


# Batches and options of an extraction.


def no_batch(function: str) -> ValueError:
    return ValueError(f"{function}: expected at least one batch, got none")


def no_samples(function: str, batch: Any) -> ValueError:
    return ValueError(f"{function}: expected a batch that holds a tensor, got {type_name(batch)}")


def check_sample_counts(function: str, features: Mapping[str, Tensor], samples: int | None) -> None:
    """Refuse layers without one row per sample; None stands for the rows of the first layer."""
    for layer, x in features.items():
        samples = len(x) if samples is None else samples
        if len(x) != samples:
            raise ValueError(
                f"{function}: expected one row of {layer!r} for each of the {samples} samples of "
                f"a batch, got {len(x)}; if samples are not the first axis, pass a function as pool"
            )


def check_same_layers(function: str, first: Mapping[str, int], widths: Mapping[str, int]) -> None:
    if widths != first:
        raise ValueError(
            f"{function}: expected every batch to have layers and widths {dict(first)}, as the "
            f"first has, got {dict(widths)}; if the last axis is not that of features, pass a "
            "function as pool"
        )


def warn_reference_trains(function: str, layer: str) -> None:
    warnings.warn(
        f"{function}: expected the reference {layer!r} to be frozen, got parameters that train at "
        "or before it, so the reference moves with them; freeze() keeps an encoder fixed",
        stacklevel=3,
    )


def check_float_dtype(function: str, dtype: Any) -> None:
    if dtype is not None and dtype not in FLOATS:
        choices = ", ".join(str(choice).removeprefix("torch.") for choice in FLOATS)
        raise TypeError(f"{function}: expected dtype to be one of {choices}, got {dtype!r}")


def check_store(function: str, store: Any, expected: type) -> None:
    if store is not None and not isinstance(store, expected):
        raise TypeError(f"{function}: expected store to be a FeatureStore, got {type_name(store)}")


# Stores.


def no_store(path: Path, expected: str, got: Any) -> ValueError:
    """Say how a store differs from its manifest, or from what the caller asks for."""
    return ValueError(f"FeatureStore: expected {expected} in {path}, got {got}")


def no_plain_file(path: Path) -> ValueError:
    return no_store(path.parent, f"{path.name} to be a plain file", "a link or another kind")


def no_second_writer(path: Path) -> ValueError:
    return no_store(
        path, "one writer at a time", "a second; close() the other, or give each process its store"
    )


def no_unchanged_store(path: Path) -> ValueError:
    return no_store(
        path, "the rows that this object knows", "those of another writer; open the store again"
    )


def check_depth(what: str, value: Any) -> None:
    """Refuse nested values that a recursive reader would not survive."""
    depth, level = 0, [value]
    while level := [
        entry
        for part in level
        if isinstance(part, Mapping | list | tuple)
        for entry in (part.values() if isinstance(part, Mapping) else part)
    ]:
        depth += 1
        if depth > DEPTH:
            raise ValueError(f"FeatureStore: expected {what} of at most {DEPTH} levels, got more")


def no_manifest(path: Path) -> FileNotFoundError:
    return FileNotFoundError(f"FeatureStore: expected a manifest in {path}, got none")


def no_stored_layer(layer: object, layers: Collection[str]) -> KeyError:
    return KeyError(f"FeatureStore: expected one of {list_names(layers)}, got {layer!r}")


def check_complete(path: Path, done: int, rows: int) -> None:
    if done != rows:
        raise no_store(path, f"all {rows} rows", f"{done}; run the extraction again to resume it")


def check_id_list(function: str, ids: Any) -> None:
    if isinstance(ids, str) or not isinstance(ids, Sequence):
        raise TypeError(f"{function}: expected ids to be a list, got {type_name(ids)}")
    if not ids:
        raise ValueError(f"{function}: expected at least one id, got none")
    for row_id in ids:
        if not isinstance(row_id, str | int) or isinstance(row_id, bool):
            raise TypeError(
                f"{function}: expected ids to be strings or integers, got {type_name(row_id)}"
            )


def check_row_range(function: str, rows: Any, total: int) -> None:
    if not isinstance(rows, range):
        raise TypeError(f"{function}: expected rows to be a range, got {type_name(rows)}")
    if not rows or rows.step < 1 or rows[0] < 0 or rows[-1] >= total:
        raise ValueError(
            f"{function}: expected rows to be an ascending range within the {total} ids, got {rows}"
        )


def check_mapping(features: Any) -> None:
    if not isinstance(features, Mapping):
        raise TypeError(
            "FeatureStore.append: expected a mapping from layer to tensor, "
            f"got {type_name(features)}"
        )


def check_new_rows(
    path: Path, features: Mapping[Any, Tensor], widths: Mapping[str, int] | None, missing: int
) -> None:
    """Refuse all but at most `missing` rows (m, d) of the store's layers; None: of any layers."""
    check_features("FeatureStore.append", rows=1, **{str(l): x for l, x in features.items()})
    new_widths = {layer: x.shape[1] for layer, x in features.items()}
    if not new_widths or not all(isinstance(layer, str) for layer in new_widths):
        raise no_store(path, "named layers", list_names(new_widths) if new_widths else "none")
    if widths is not None and new_widths != widths:
        raise no_store(path, f"layers and widths {dict(widths)}", new_widths)
    for what, found in (
        ("dtype", {x.dtype for x in features.values()}),
        ("number of rows", {len(x) for x in features.values()}),
    ):
        if len(found) > 1:
            raise no_store(path, f"one {what} for all layers", list_names(sorted(map(str, found))))
    m = len(next(iter(features.values())))
    if m > missing:
        raise no_store(path, f"at most the {missing} missing rows", m)


# How messages name things.


def list_names(names: Collection[object]) -> str:
    listing = ", ".join(repr(name) for name, _ in zip(names, range(MANY), strict=False))
    return f"{listing} and {len(names) - MANY} more" if len(names) > MANY else listing


def type_name(value: Any) -> str:
    return type(value).__name__
