"""Which layer of each side to align."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._ids import python_value
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.selection import select_layers
from structure_reg.training._checks import check_blend, check_layer_rows
from structure_reg.training.blending import SAMPLE, Blend, choose_blend
from structure_reg.training.inputs import (
    Features,
    as_ids,
    as_tensor,
    has_layers,
    layer_names,
    layer_of,
)

FEWEST = 8  # rows that select_layers compares


def choose_layers(
    layers: Any, x: Features, y: Features, ids: Any, device: Any
) -> tuple[tuple[Any, Any], LayerSelection | None]:
    """Return a layer, or the list of the layers of a blend, for each side."""
    function = "Aligner.fit"
    names_x, names_y = layer_names(function, "x", x), layer_names(function, "y", y)
    if isinstance(layers, tuple | list):
        layer_x, layer_y = layers
        return (given(function, "x", x, layer_x), given(function, "y", y, layer_y)), None
    if layers == "last" or len(names_x) == len(names_y) == 1:
        return (names_x[-1], names_y[-1]), None
    xs = all_layers(function, "x", x, names_x, device)
    ys = all_layers(function, "y", y, names_y, device)
    numbers = as_ids(function, ids, next(iter(xs.values())))
    rows = comparable_rows(numbers, len(next(iter(xs.values()))))
    selection = select_layers(*({str(l): z[rows] for l, z in side.items()} for side in (xs, ys)))
    blend = blend_of(layers, selection, [*xs.values()], [*ys.values()], numbers)
    return (named(names_x, blend.x), named(names_y, blend.y)), selection


def all_layers(
    function: str, name: str, features: Features, names: list[Any], device: Any
) -> dict[Any, Tensor]:
    layers = {
        layer: as_tensor(function, name, layer_of(function, name, features, layer), device)
        for layer in names
    }
    check_layer_rows(function, name, list(layers.values()))
    return layers


def comparable_rows(ids: Tensor | None, n: int) -> Tensor | slice:
    """Rows to compare layers on: copies of one text would count as neighbours of each other."""
    if ids is None:
        return slice(None)
    first = first_of_each(ids)
    # Of a few classes, only the copies are enough to compare layers.
    return first if len(first) >= FEWEST else torch.arange(n, device=ids.device)


def blend_of(
    layers: Any,
    selection: LayerSelection,
    xs: list[Tensor],
    ys: list[Tensor],
    ids: Tensor | None,
) -> Blend:
    """The best pair, so many layers of each side, or what held-out pairs say."""
    if layers == "select":
        return Blend((selection.x_layer,), (selection.y_layer,))
    if layers == "all":
        return Blend(*selection.blend(max(len(xs), len(ys))))
    if layers != "blend":
        return Blend(*selection.blend(int(layers)))
    n = len(xs[0])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:SAMPLE]
    rows = order.sort().values.to(xs[0].device)
    of_rows = None if ids is None else ids[rows]
    return choose_blend(selection, [x[rows] for x in xs], [y[rows] for y in ys], of_rows)


def named(names: list[Any], positions: tuple[int, ...]) -> Any:
    """The name of one layer, or a list of the names of several."""
    layers = [names[i] for i in positions]
    return layers if len(layers) > 1 else layers[0]


def given(function: str, name: str, features: Features, layer: Any) -> Any:
    """The layer that was asked for, or a list of layers, each of which has to be there."""
    if isinstance(layer, list):
        check_blend(function, name, layer)
        return [given_layer(function, name, features, one) for one in layer]
    return given_layer(function, name, features, layer)


def given_layer(function: str, name: str, features: Features, layer: Any) -> Any:
    """The name or position of a layer that is there; one array is layer 0, or -1."""
    layer_of(function, name, features if has_layers(features) else [features], layer)
    return python_value(layer)


def first_of_each(ids: Tensor) -> Tensor:
    """First row of each id; the ids are numbered without gaps, as :func:`as_ids` does."""
    new = ids.new_zeros(int(ids.max()) + 1).scatter_reduce(
        0, ids, torch.arange(len(ids), device=ids.device), "amin", include_self=False
    )
    return new.sort().values
