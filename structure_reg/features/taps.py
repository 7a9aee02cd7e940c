"""Where a model's features are taken: hooks on modules, and the numbered outputs of libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any

from torch import Tensor, nn

from structure_reg.features._checks import (
    check_ran,
    no_module,
    no_number,
    no_numbers,
    no_output,
    no_second,
)
from structure_reg.features.encoder import called

FUNCTION = "extract_features"
HIDDEN_STATES = "hidden_states"  # Hugging Face: L + 1, the embeddings first
INTERMEDIATES = "intermediates"  # timm: a block or stage each
Keep = Callable[[Any, Tensor | None], Tensor]


def numbering(model: nn.Module) -> str | None:
    """The numbered outputs that a model offers by itself."""
    if hasattr(getattr(model, "config", None), "output_hidden_states"):
        return HIDDEN_STATES
    forward = getattr(model, "forward_intermediates", None)
    if forward is not None and "intermediates_only" in signature(forward).parameters:
        return INTERMEDIATES
    return None


def resolved(model: nn.Module, layers: str | Sequence[str | int]) -> list[str | int] | None:
    """Module names as they are, numbered outputs as integers; None for all numbered outputs."""
    source = numbering(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    names = [name for name in modules if name]
    if source is None:
        numbers = [layers] if layers == "all" else [l for l in layers if isinstance(l, int)]
        if numbers:
            raise no_numbers(FUNCTION, numbers[0], model, names)
    if layers == "all":
        return None
    found: list[str | int] = []
    for layer in layers:
        if isinstance(layer, str) and layer not in modules:
            match = re.fullmatch(rf"{source}\.(\d+)", layer)
            if match is None:
                raise no_module(FUNCTION, layer, model, names)
            layer = int(match[1])
        if layer in found:
            raise no_second(FUNCTION, layer)
        found.append(layer)
    return found


def tapped(
    model: nn.Module,
    batch: Any,
    layers: list[str | int] | None,
    keep: Keep,
    mask: Tensor | None,
    *,
    prefix: bool,
) -> dict[str, Tensor]:
    """What `keep` makes of each layer's output for one batch, under the names of the layers.

    Hooks keep at once, because a later module may work in place on the same memory.
    """
    source = numbering(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    hooks = {name: modules[name] for name in layers or [] if isinstance(name, str)}
    numbers = None if layers is None else [layer for layer in layers if isinstance(layer, int)]
    outputs: list[tuple[Any, Tensor | None]] = []
    with hooked(hooks, lambda output: keep(output, mask)) as kept:
        if source == HIDDEN_STATES and numbers != []:
            outputs = [(x, mask) for x in hidden_states(model, batch)]
        elif source == INTERMEDIATES and numbers != []:
            outputs = [(x, None) for x in intermediates(model, batch, prefix=prefix)]
        else:
            called(model, batch)
    check_ran(FUNCTION, hooks, kept)
    features: dict[str, Tensor] = {}
    for layer in range(len(outputs)) if layers is None else layers:
        if isinstance(layer, str):
            features[layer] = kept[layer]
            continue
        if not -len(outputs) <= layer < len(outputs):
            raise no_number(FUNCTION, layer, str(source), len(outputs))
        name = f"{source}.{layer % len(outputs)}"
        if name in features:
            raise no_second(FUNCTION, name)
        features[name] = keep(*outputs[layer])
    return features


@contextmanager
def hooked(
    modules: Mapping[str, nn.Module], keep: Callable[[Any], Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Fill a dict with what the modules return, until the block is left, however it is left.

    A module that runs again, as under activation checkpointing, overwrites.
    """
    kept: dict[str, Tensor] = {}

    def keep_as(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            kept[name] = keep(output)

        return hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(keep_as(name)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def hidden_states(model: nn.Module, batch: Any) -> Sequence[Tensor]:
    output = called(model, batch, output_hidden_states=True, return_dict=True)
    states = output.get(HIDDEN_STATES) if isinstance(output, Mapping) else None
    if states is None:
        raise no_output(FUNCTION, HIDDEN_STATES, model, output)
    return tuple(states)


def intermediates(model: nn.Module, batch: Any, *, prefix: bool) -> Sequence[Tensor]:
    """Maps (B, C, H, W); with `prefix` the tokens before them instead, where the first is a class.

    timm splits those off, because they have no place in the map. A model may have registers but no
    class token, and a register is none.
    """
    forward: Callable[..., Any] = model.forward_intermediates  # type: ignore[assignment]
    has_class = getattr(model, "cls_token", None) is not None
    if prefix and has_class and "return_prefix_tokens" in signature(forward).parameters:
        pairs = called(forward, batch, intermediates_only=True, return_prefix_tokens=True)
        return [tokens for _map, tokens in pairs]
    maps = called(forward, batch, intermediates_only=True)
    if not isinstance(maps, list | tuple):
        raise no_output(FUNCTION, INTERMEDIATES, model, maps)
    return maps
