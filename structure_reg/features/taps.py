"""Where features come from: hooks on modules, and the numbered outputs of libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, nn

from structure_reg.features._checks import (
    check_distinct_layers,
    check_layers_ran,
    check_only_modules,
    no_module,
    no_numbered_outputs,
    no_output_number,
    no_repeated_layer,
)
from structure_reg.features.encoder import call_model
from structure_reg.features.masks import Masks

FUNCTION = "extract_features"
HIDDEN_STATES = "hidden_states"  # Hugging Face: L + 1, the embeddings first
INTERMEDIATES = "intermediates"  # timm: one per block or stage
PoolOutput = Callable[[Any, Masks, str, nn.Module | None], Tensor]


def output_source(model: nn.Module) -> str | None:
    """Return the name of the numbered outputs that a model offers, if it does."""
    if hasattr(getattr(model, "config", None), "output_hidden_states"):
        return HIDDEN_STATES
    forward = getattr(model, "forward_intermediates", None)
    if forward is not None and "intermediates_only" in signature(forward).parameters:
        return INTERMEDIATES
    return None


def resolve_layers(model: nn.Module, layers: str | Sequence[str | int]) -> list[str | int] | None:
    """Return modules by name and numbered outputs as integers; None is all numbered outputs."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if output_source(model) is None:
        check_only_modules(FUNCTION, layers, model, modules)
    if layers == "all":
        return None
    found = [resolve_layer(model, layer, modules) for layer in layers]
    check_distinct_layers(FUNCTION, found)
    return found


def resolve_layer(model: nn.Module, layer: str | int, modules: Collection[str]) -> str | int:
    if isinstance(layer, int) or layer in modules:
        return layer
    source = output_source(model)
    number = source and re.fullmatch(rf"{source}\.(\d+)", layer)
    if not number:
        raise no_module(FUNCTION, layer, model, modules)
    return int(number[1])


def tap_layers(
    model: nn.Module,
    batch: Any,
    layers: list[str | int] | None,
    pool_output: PoolOutput,
    masks: Masks,
    *,
    prefix_tokens: bool,
) -> dict[str, Tensor]:
    """Run one batch and return the pooled output of each layer, under the layer's name.

    Hooks pool at once, because a later module may work in place on the same memory.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    hooked = {name: modules[name] for name in layers or [] if isinstance(name, str)}
    outputs: list[tuple[Any, Masks]] = []
    with hook_outputs(hooked, lambda *output: pool_output(output[2], masks, *output[:2])) as pooled:
        if layers is None or len(hooked) < len(layers):
            outputs = numbered_outputs(model, batch, masks, prefix_tokens=prefix_tokens)
        else:
            call_model(model, batch)
    check_layers_ran(FUNCTION, hooked, pooled)
    features: dict[str, Tensor] = {}
    for layer in range(len(outputs)) if layers is None else layers:
        if isinstance(layer, str):
            features[layer] = pooled[layer]
            continue
        name = output_name(model, layer, len(outputs))
        if name in features:
            raise no_repeated_layer(FUNCTION, name)
        features[name] = pool_output(*outputs[layer], name, None)
    return features


@contextmanager
def hook_outputs(
    modules: Mapping[str, nn.Module], pool_output: Callable[[str, nn.Module, Any], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with the modules' pooled outputs until the block ends, with or without an error.

    A module that runs again, as under activation checkpointing, overwrites its entry.
    """
    pooled: dict[str, Tensor] = {}

    def make_hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, _inputs: Any, output: Any) -> None:
            pooled[name] = pool_output(name, module, output)

        return hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(make_hook(name)))
        yield pooled
    finally:
        for handle in handles:
            handle.remove()


def output_name(model: nn.Module, number: int, count: int) -> str:
    source = str(output_source(model))
    if not -count <= number < count:
        raise no_output_number(FUNCTION, number, source, count)
    return f"{source}.{number % count}"


def numbered_outputs(
    model: nn.Module, batch: Any, masks: Masks, *, prefix_tokens: bool
) -> list[tuple[Tensor, Masks]]:
    """Return each numbered output with the masks of its tokens; maps have none."""
    if output_source(model) == HIDDEN_STATES:
        return [(x, masks) for x in hidden_states(model, batch)]
    return [(x, Masks()) for x in intermediates(model, batch, prefix_tokens=prefix_tokens)]


def hidden_states(model: nn.Module, batch: Any) -> Sequence[Tensor]:
    output = call_model(model, batch, output_hidden_states=True, return_dict=True)
    states = output.get(HIDDEN_STATES) if isinstance(output, Mapping) else None
    if states is None:
        raise no_numbered_outputs(FUNCTION, HIDDEN_STATES, model, output)
    return tuple(states)


def intermediates(model: nn.Module, batch: Any, *, prefix_tokens: bool) -> Sequence[Tensor]:
    """Return maps (B, C, H, W), or with `prefix_tokens` the tokens (B, P, d) before them.

    timm splits prefix tokens off because they have no place in the map. Only models with a class
    token return them here: the first prefix token of a model without one is a register.
    """
    forward: Callable[..., Any] = model.forward_intermediates  # type: ignore[assignment]
    has_class = getattr(model, "cls_token", None) is not None
    if prefix_tokens and has_class and "return_prefix_tokens" in signature(forward).parameters:
        pairs = call_model(forward, batch, intermediates_only=True, return_prefix_tokens=True)
        return [tokens for _map, tokens in pairs]
    maps = call_model(forward, batch, intermediates_only=True)
    if not isinstance(maps, list | tuple):
        raise no_numbered_outputs(FUNCTION, INTERMEDIATES, model, maps)
    return maps
