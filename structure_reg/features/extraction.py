"""Extracting the features of a frozen encoder: one row per sample and layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from structure_reg._progress import progress_bar
from structure_reg.features._checks import (
    check_float_dtype,
    check_layer_output,
    check_module,
    check_pool,
    check_pooled_rows,
    check_requested_layers,
    check_same_layers,
    check_sample_counts,
    check_store,
    no_batch,
    no_sample_axis,
    no_samples,
)
from structure_reg.features.axes import Axes
from structure_reg.features.encoder import (
    count_samples,
    eval_mode,
    first_item,
    model_device,
    split_arguments,
    take_samples,
    to_device,
    unwrap,
)
from structure_reg.features.masks import Masks, find_masks, given_mask, mask_of, positional_names
from structure_reg.features.pooling import FUNCTION, POOLS, Pool, pool_rows
from structure_reg.features.store import FeatureStore
from structure_reg.features.taps import resolve_layers, tap_layers


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
    r"""Run an encoder over batches and keep one row per sample of the chosen layers.

    The encoder runs in eval mode without gradient, on its own device. It is left as it was found,
    without hooks and with every training flag restored, even after an error.

    Parameters
    ----------
    model : nn.Module
        Any module. Wrappers (``DataParallel``, ``DistributedDataParallel``, ``torch.compile``) are
        bypassed: the module inside runs eagerly, on one device.
    batches : iterable
        Inputs of the model. A tensor is passed as ``model(batch)``, a mapping as
        ``model(**batch)``, and a tuple or list as ``model(*batch)``; for (image, label) batches
        pass ``(image for image, _ in loader)``. The first axis of the first tensor counts the
        samples.
    layers : "all" or sequence of str and int
        Layers to keep. A string is the name of a module (``dict(model.named_modules())``; "" is the
        model itself) and stands for its output, or for the first item of a tuple. An integer,
        possibly negative, indexes the numbered outputs: ``hidden_states`` of Hugging Face models,
        which begin with the embeddings, and the maps of ``forward_intermediates`` of timm models.
        "all" keeps all numbered outputs. The names in the result are valid layers too.
    pool : {"cls", "mean", "last"} or callable
        How tokens of shape (B, L, d) become rows of shape (B, d): "cls" is the unmasked token at
        the smallest index, "last" the one at the largest index, and "mean" the average of the
        unmasked tokens, in at least float32. All three ignore padding on either side. Maps of shape
        (B, C, ...) are averaged; with "cls", timm models return their class token instead. The
        steps of a one-dimensional convolution (B, C, T) are tokens, and so are outputs (L, B, d) of
        PyTorch's modules with ``batch_first=False``. Rows of shape (B, d) are kept as they are. A
        function takes the layer's output, which may be of any type, and the mask or None, and
        returns (B, d).
    mask : callable, optional
        Function from a batch to its mask of shape (B, L), nonzero at tokens and zero at padding, or
        to None if there is no padding: ``mask=lambda batch: None``. By default, the input that the
        model or a nested mapping calls ``attention_mask`` or ``key_padding_mask`` (PyTorch's, True
        at padding; also with the usual prefixes) and that fits the layer's tokens. Without either,
        "mean" and "last" refuse integer token ids, which may be padded.
    dtype : torch.dtype, optional
        Floating dtype of the result. By default, that of the pooled features, which is at least
        float32 for "mean".
    store : FeatureStore, optional
        Store to write to, batch by batch. The batches cover all of its rows in order; those already
        written are skipped without running the model.
    progress : bool
        Whether to show a progress bar on stderr, which needs tqdm.

    Returns
    -------
    dict of str to Tensor of shape (n, d)
        The features in the order of `layers`, on the CPU and without gradient; memory-mapped from
        the files if there is a store.

    Raises
    ------
    TypeError
        If an argument, or a layer's output, is of the wrong type.
    ValueError
        If a layer does not exist, does not run or is named twice (the message lists candidates), if
        a mask does not fit or hides all tokens of a sample, or if the rows do not match the batch
        or the store.
    ModuleNotFoundError
        If `progress` is True and tqdm is not installed.

    See Also
    --------
    FeatureStore : Features on disk; an interrupted run can be resumed.
    freeze : Keep an encoder fixed inside a model that trains.

    Notes
    -----
    The last hidden state of a Hugging Face model differs from its ``last_hidden_state`` if a final
    norm follows the last block, as in ViT and DINOv2; to get the latter, name the norm's module.
    ``hidden_states.0`` are embeddings, before any attention: with "cls", every sample of BERT or
    ViT has the same row there. A module that runs several times keeps its last output.

    The result does not depend on the caller's autocast, inference mode, default dtype or
    deterministic mode: autocast is off inside, so a model in float32 returns float32. For half
    precision, convert the model.

    An output of three axes may be (B, L, d), (B, C, T) or (L, B, d). Its axes are those of the last
    convolution, linear layer or normalisation that ran, found by width, and so are those of maps
    that are channels-last, as inside Swin. What cannot be told is refused. If the first batch has
    as many samples as tokens, the model runs once more with one sample less, to see which axis
    shrinks.

    Examples
    --------
    Two passes: extract all candidates from a sample of the batches, then the best layer from all.

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
    check_module(FUNCTION, "model", model)
    check_requested_layers(FUNCTION, layers)
    check_pool(FUNCTION, pool, POOLS)
    check_float_dtype(FUNCTION, dtype)
    check_store(FUNCTION, store, FeatureStore)
    model = unwrap(model)
    found = resolve_layers(model, layers)
    if store is not None:
        store.record(describe_extraction(layers, pool, dtype))
        if not store.pending:
            return dict(store)
    bar = progress_bar(FUNCTION, batches, show=progress, description="features", unit="batch")
    with eval_mode(model), closing(Axes(model)) as axes:
        request = Request(found, pool, mask, dtype, positional_names(model), axes, set())
        if store is None:
            return extract_to_memory(model, bar, request)
        with closing(store):
            extract_to_store(model, bar, request, store)
    return dict(store)


class Request(NamedTuple):
    """What to keep of every batch, and what the first batch told about the layers' axes."""

    layers: list[str | int] | None  # None: all numbered outputs
    pool: Pool
    mask: Callable[[Any], Tensor | None] | None
    dtype: torch.dtype | None
    names: list[str]  # of the model's positional arguments
    axes: Axes
    square: set[str]  # layers with as many tokens as samples, or as many samples as tokens

    def masks(self, batch: Any) -> Masks:
        """Return the mask that the caller's function gives, or those among the inputs."""
        if self.mask is not None:
            return given_mask(FUNCTION, self.mask(batch))
        return find_masks(self.names, *split_arguments(batch))

    def pool_output(
        self, output: Any, masks: Masks, layer: str, module: nn.Module | None
    ) -> Tensor:
        """Pool what a layer returned into rows (B, d); numbered outputs have no module."""
        x = first_item(output)
        if isinstance(self.pool, str):
            check_layer_output(FUNCTION, x)
            if module is not None:
                x = self.axes.arrange(FUNCTION, layer, module, x)
                if x.ndim == 3 and x.shape[0] == x.shape[1]:
                    self.square.add(layer)
        rows = pool_rows(x, mask_of(FUNCTION, x, masks, self.pool, torch.equal), self.pool)
        check_pooled_rows(FUNCTION, rows)
        # A copy: the next module may write into the memory of this one's output.
        return rows.detach().to(dtype=self.dtype or rows.dtype, copy=True)


def describe_extraction(
    layers: str | Sequence[str | int], pool: Pool, dtype: torch.dtype | None
) -> dict[str, Any]:
    """Return what a store records, so that only the same extraction resumes it."""
    return {
        "layers": layers if isinstance(layers, str) else list(layers),
        "pool": pool if isinstance(pool, str) else f"{pool.__module__}.{pool.__qualname__}",
        "dtype": None if dtype is None else str(dtype),
    }


def extract_to_memory(
    model: nn.Module, batches: Iterable[Any], request: Request
) -> dict[str, Tensor]:
    parts: dict[str, list[Tensor]] = {}
    for batch in batches:
        # A pool function may know better where the samples are than the first axis does.
        samples = count_samples(batch) if isinstance(request.pool, str) else None
        features = extract_batch(model, batch, request, samples, first=not parts)
        if parts:
            widths = {layer: rows[0].shape[1] for layer, rows in parts.items()}
            check_same_layers(FUNCTION, widths, {l: x.shape[1] for l, x in features.items()})
        for name, x in features.items():
            parts.setdefault(name, []).append(x.cpu())
    if not parts:
        raise no_batch(FUNCTION)
    return {name: torch.cat(rows) for name, rows in parts.items()}


def extract_to_store(
    model: nn.Module, batches: Iterable[Any], request: Request, store: FeatureStore
) -> None:
    """Append the rows that the store lacks, and skip batches that it holds already."""
    seen, first = 0, True
    for batch in batches:
        samples = count_samples(batch)
        if samples is None:
            raise no_samples(FUNCTION, batch)
        seen += samples
        if seen <= store.done:
            continue
        features = extract_batch(model, batch, request, samples, first=first)
        missing, first = seen - store.done, False
        store.append({name: x[-missing:] for name, x in features.items()})


def extract_batch(
    model: nn.Module, batch: Any, request: Request, samples: int | None, *, first: bool
) -> dict[str, Tensor]:
    """Return the rows of one batch; the first one tells which axes the layers have."""
    batch = to_device(batch, model_device(model))
    features = pool_batch(model, batch, request)
    check_sample_counts(FUNCTION, features, samples)
    if first:
        request.axes.close()
        if request.square and samples is not None and samples > 1:
            check_first_axis(model, batch, request, samples)
    return features


def check_first_axis(model: nn.Module, batch: Any, request: Request, samples: int) -> None:
    """Refuse (L, B, d) for (B, L, d) where L is B: one sample less has to make one row less."""
    try:
        fewer = pool_batch(model, take_samples(batch, samples, samples - 1), request)
    except Exception as error:
        raise no_sample_axis(FUNCTION, sorted(request.square), samples) from error
    check_sample_counts(FUNCTION, fewer, samples - 1)


def pool_batch(model: nn.Module, batch: Any, request: Request) -> dict[str, Tensor]:
    return tap_layers(
        model,
        batch,
        request.layers,
        request.pool_output,
        request.masks(batch),
        prefix_tokens=request.pool == "cls",
    )
