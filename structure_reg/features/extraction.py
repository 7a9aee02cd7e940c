"""A frozen encoder's features, one row per sample and layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from structure_reg._checks import no_tqdm
from structure_reg.features._checks import (
    check_encoder,
    check_float_dtype,
    check_layer_output,
    check_mask_kind,
    check_pool,
    check_pooled,
    check_samples,
    check_store,
    check_wanted,
    no_batch,
    no_samples,
)
from structure_reg.features.encoder import at_rest, device_of, moved, samples_of, unwrapped
from structure_reg.features.pooling import FUNCTION, POOLS, Pool, pool_rows
from structure_reg.features.store import FeatureStore
from structure_reg.features.taps import resolved, tapped


def extract_features(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    layers: str | Sequence[str | int],
    pool: Pool,
    mask: Callable[[Any], Tensor | None] | None = None,
    dtype: torch.dtype | None = None,
    store: FeatureStore | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    r"""Run an encoder over batches and keep one row per sample of the layers you name.

    The encoder runs in eval mode and without gradient, on the device it is on, and is left as it
    was found, without a hook and with every training flag restored, also after an error.

    Parameters
    ----------
    model : nn.Module
        Any module. What wraps it (``DataParallel``, ``DistributedDataParallel``, ``torch.compile``)
        is passed by: features come from the module inside, on one device, run eagerly.
    batches : iterable
        A tensor is passed as ``model(batch)``, a mapping as ``model(**batch)``, a tuple or list as
        ``model(*batch)``; so of (image, label) batches pass ``(image for image, _ in loader)``. The
        first axis of the first tensor counts the samples.
    layers : "all" or sequence of str and int
        A string is the name of a module (``dict(model.named_modules())``, "" is the model itself),
        and takes what it returns, or the first item of a tuple. An integer, also negative, is a
        numbered output: Hugging Face models have ``hidden_states``, the embeddings first, and timm
        models the maps of ``forward_intermediates``. "all" is all numbered outputs. The names that
        come back may be asked for again.
    pool : {"cls", "mean", "last"} or callable
        How tokens of shape (B, L, d) become rows: the token at the smallest index that the mask
        shows, the mean over those it shows, in float32 at least, or the token at the largest index.
        All three are blind to pads on either side. Maps of shape (B, C, ...) have their mean, and
        with "cls" timm models give their class token. Rows (B, d) stay. A function receives the
        layer's output and the mask or None, and returns (B, d).
    mask : callable, optional
        From a batch to its mask of shape (B, L), nonzero where there is a token, or to None. By
        default the ``"attention_mask"`` of a mapping.
    dtype : torch.dtype, optional
        Of the result. By default that of the pooled features: for "mean" at least float32.
    store : FeatureStore, optional
        Written batch by batch. Batches are over all of its rows in order; those it holds already
        are passed over without running the model.
    progress : bool
        A bar on stderr; needs tqdm.

    Returns
    -------
    dict of str to Tensor of shape (n, d)
        In the order of `layers`; on the CPU, without gradient; mapped from the files of a store.

    Raises
    ------
    TypeError
        If an argument, or what a layer returns, is of the wrong kind.
    ValueError
        If a layer does not exist, does not run or is named twice (the message lists candidates), a
        mask does not fit or hides all of a sample, or the rows are not those of the batch or store.
    ModuleNotFoundError
        If `progress` is asked for without tqdm.

    See Also
    --------
    FeatureStore : Features on disk, resumable after a kill.
    freeze : An encoder inside a model that trains.

    Notes
    -----
    A Hugging Face model's last hidden state is not its ``last_hidden_state`` where the final norm
    comes after the last block, as in ViT and DINOv2: name the norm's module for that. A module that
    runs several times keeps its last output. Channels-last maps (B, H, W, C), as inside Swin, need
    a pool function.

    Examples
    --------
    Two passes: all candidates on a sample of the batches, then the chosen ones on all.

    >>> encoder = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
    ... )
    >>> batches = torch.randn(10, 32, 8, generator=torch.Generator().manual_seed(0))
    >>> sample = extract_features(encoder, batches[:2], layers=["0", "1", "2"], pool="mean")
    >>> {name: tuple(x.shape) for name, x in sample.items()}
    {'0': (64, 16), '1': (64, 16), '2': (64, 4)}
    >>> text = torch.randn(64, 5)
    >>> best = select_layers(sample, [text], permutations=20)
    >>> name = best.x_names[best.x_layer]
    >>> chosen = extract_features(encoder, batches, layers=[name], pool="mean")
    >>> torch.equal(chosen[name][:64], sample[name])
    True
    """
    check_encoder(FUNCTION, "model", model)
    check_wanted(FUNCTION, layers)
    check_pool(FUNCTION, pool, POOLS)
    check_float_dtype(FUNCTION, dtype)
    check_store(FUNCTION, store, FeatureStore)
    model = unwrapped(model)
    wanted = resolved(model, layers)
    if store is not None:
        how = pool if isinstance(pool, str) else f"{pool.__module__}.{pool.__qualname__}"
        asked = layers if isinstance(layers, str) else list(layers)
        store.record({"layers": asked, "pool": how, "dtype": None if dtype is None else str(dtype)})
        if not store.pending:
            return dict(store)
    parts: dict[str, list[Tensor]] = {}
    batches = with_bar(batches) if progress else batches
    with at_rest(model):
        for features in featured(model, batches, wanted, pool, mask, dtype, store):
            if store is not None:
                store.append(features)
                continue
            for name, x in features.items():
                parts.setdefault(name, []).append(x.cpu())
    if store is not None:
        return dict(store)
    if not parts:
        raise no_batch(FUNCTION)
    return {name: torch.cat(of_layer) for name, of_layer in parts.items()}


def featured(
    model: nn.Module,
    batches: Iterable[Any],
    wanted: list[str | int] | None,
    pool: Pool,
    mask: Callable[[Any], Tensor | None] | None,
    dtype: torch.dtype | None,
    store: FeatureStore | None,
) -> Iterator[dict[str, Tensor]]:
    """The rows of each batch that the store lacks; without one, of each batch."""

    def keep(output: Any, shown: Tensor | None) -> Tensor:
        if isinstance(output, tuple | list) and output:
            output = output[0]
        check_layer_output(FUNCTION, output)
        rows = pool_rows(output, shown, pool)
        check_pooled(FUNCTION, rows)
        # A copy: the next module may write into the memory of this one's output.
        return rows.detach().to(dtype=dtype or rows.dtype, copy=True)

    device, seen = device_of(model), 0
    for batch in batches:
        samples = samples_of(batch)
        if store is not None:
            if samples is None:
                raise no_samples(FUNCTION, batch)
            seen += samples
            if seen <= store.done:
                continue
        inputs = moved(batch, device)
        shown = attention_mask(inputs) if mask is None else mask(inputs)
        check_mask_kind(FUNCTION, shown)
        features = tapped(model, inputs, wanted, keep, shown, prefix=pool == "cls")
        # A function may know better than we do where the samples are.
        expected = samples if store is not None or isinstance(pool, str) else None
        check_samples(FUNCTION, features, expected)
        fresh = 0 if store is None else store.done - seen
        yield {name: x[fresh:] for name, x in features.items()}


def attention_mask(batch: Any) -> Tensor | None:
    return batch.get("attention_mask") if isinstance(batch, Mapping) else None


def with_bar(batches: Iterable[Any]) -> Iterable[Any]:
    try:
        tqdm = import_module("tqdm").tqdm
    except ModuleNotFoundError:
        raise no_tqdm(FUNCTION) from None
    bar: Iterable[Any] = tqdm(batches, desc="features", unit="batch")  # on stderr
    return bar
