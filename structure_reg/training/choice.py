"""Which layer of each side to align."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._ids import python_value
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.selection import select_layers
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
    """Return a given pair, the last layers, or the pair that :func:`select_layers` finds."""
    function = "Aligner.fit"
    names = layer_names(function, "x", x), layer_names(function, "y", y)
    if isinstance(layers, tuple):
        layer_x, layer_y = layers
        pair = given_layer(function, "x", x, layer_x), given_layer(function, "y", y, layer_y)
        return pair, None
    if layers == "last" or len(names[0]) == len(names[1]) == 1:
        return (names[0][-1], names[1][-1]), None
    xs, ys = (
        {
            str(layer): as_tensor(function, side, layer_of(function, side, z, layer), device)
            for layer in of_side
        }
        for side, z, of_side in (("x", x, names[0]), ("y", y, names[1]))
    )
    one = next(iter(xs.values()))
    numbers = as_ids(function, ids, one)
    if numbers is not None:  # copies of one text would count as neighbours of each other
        rows = first_of_each(numbers)
        if len(rows) < FEWEST:  # of a few classes, only the copies are enough to compare layers
            rows = torch.arange(len(numbers), device=rows.device)
        xs, ys = ({layer: z[rows] for layer, z in side.items()} for side in (xs, ys))
    selection = select_layers(xs, ys)
    return (names[0][selection.x_layer], names[1][selection.y_layer]), selection


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
