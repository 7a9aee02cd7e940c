"""Which layer of each side to align."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._ids import python_value
from structure_reg.layers.report import LayerSelection
from structure_reg.layers.selection import select_layers
from structure_reg.training._checks import check_blend, check_layer_rows, check_pairs
from structure_reg.training.averaging import Member
from structure_reg.training.blending import SAMPLE, Blend, WeighedBlend, union, weighed_blends
from structure_reg.training.inputs import (
    Features,
    as_ids,
    has_layers,
    layer_names,
    layer_of,
)
from structure_reg.training.rows import Rows, rows_of

FUNCTION = "Aligner.fit"
FEWEST = 8  # rows that select_layers compares
MOST = 5000  # rows, from which select_layers would draw as many


class LayerChoice(NamedTuple):
    """The layers to align, and how they were chosen."""

    layers: tuple[Any, Any]  # of each side a layer, or the list of the layers of a blend
    selection: LayerSelection | None = None
    members: list[Member] | None = None  # blends whose maps are averaged, if there are several


def choose_layers(
    layers: Any, x: Features, y: Features, ids: Any, device: Any, *, average: bool
) -> LayerChoice:
    """Choose the layers of each side; `average` where maps of several blends can be averaged."""
    function = FUNCTION
    names_x, names_y = layer_names(function, "x", x), layer_names(function, "y", y)
    if isinstance(layers, tuple | list):
        layer_x, layer_y = layers
        return LayerChoice((given(function, "x", x, layer_x), given(function, "y", y, layer_y)))
    if layers == "last" or len(names_x) == len(names_y) == 1:
        return LayerChoice((names_x[-1], names_y[-1]))
    sides = LayersOf("x", x, names_x, device), LayersOf("y", y, names_y, device)
    first_x, first_y = (side.first() for side in sides)
    numbers = as_ids(function, ids, first_x)
    check_pairs(function, first_x, first_y, FEWEST)
    n = len(first_x)
    generator = torch.Generator().manual_seed(0)
    rows = subset(comparable_rows(numbers, n), generator)
    xs, ys = (side.sample(rows, n) for side in sides)
    selection = select_layers(
        {str(l): z for l, z in zip(names_x, xs, strict=True)},
        {str(l): z for l, z in zip(names_y, ys, strict=True)},
        generator=generator,
    )
    if layers == "blend":
        blend, members = held_out_blend(selection, sides, numbers, n, average)
    else:
        blend, members = blend_of(layers, selection), None
    return LayerChoice((named(names_x, blend.x), named(names_y, blend.y)), selection, members)


class LayersOf(NamedTuple):
    """All layers of one side, each of which is opened to read a sample of its rows."""

    name: str
    features: Features
    names: list[Any]
    device: Any

    def first(self) -> Rows:
        return rows_of(FUNCTION, self.name, self.features, self.names[0], self.device)

    def sample(self, rows: Tensor, n: int) -> list[Tensor]:
        """Rows of every layer, after a check that it has as many as the first."""
        samples = []
        for layer in self.names:
            of_layer = rows_of(FUNCTION, self.name, self.features, layer, self.device)
            check_layer_rows(FUNCTION, self.name, [range(n), of_layer])
            samples.append(of_layer[rows])
        return samples


def subset(rows: Tensor, generator: torch.Generator) -> Tensor:
    """At most as many rows as :func:`select_layers` compares, in the order in which it draws."""
    if len(rows) <= MOST:
        return rows
    return rows[torch.randperm(len(rows), generator=generator)[:MOST].to(rows.device)]


def comparable_rows(ids: Tensor | None, n: int) -> Tensor:
    """Rows to compare layers on: copies of one text would count as neighbours of each other."""
    if ids is None:
        return torch.arange(n)
    first = first_of_each(ids)
    # Of a few classes, only the copies are enough to compare layers.
    return first if len(first) >= FEWEST else torch.arange(n, device=ids.device)


def blend_of(layers: Any, selection: LayerSelection) -> Blend:
    """The best pair, all layers, or so many of each side."""
    if layers == "select":
        return Blend((selection.x_layer,), (selection.y_layer,))
    most = max(selection.scores.shape) if layers == "all" else int(layers)
    return Blend(*selection.blend(most))


def held_out_blend(
    selection: LayerSelection,
    sides: tuple[LayersOf, LayersOf],
    ids: Tensor | None,
    n: int,
    average: bool,
) -> tuple[Blend, list[Member] | None]:
    """The layers of all blends and those blends, or without an average the best blend."""
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:SAMPLE]
    rows = order.sort().values
    xs, ys = (side.sample(rows, n) for side in sides)
    of_rows = None if ids is None else ids[rows.to(ids.device)]
    weighed = weighed_blends(selection, xs, ys, of_rows, n)
    if not average or len(weighed) == 1:
        return max(weighed, key=lambda blend: blend.weight).blend, None
    layers = union([one.blend for one in weighed])
    return layers, [member(one, layers, xs, ys) for one in weighed]


def member(one: WeighedBlend, layers: Blend, xs: list[Tensor], ys: list[Tensor]) -> Member:
    """A blend by its columns among those of `layers`."""
    x, y = columns(layers.x, xs, one.blend.x), columns(layers.y, ys, one.blend.y)
    return Member(x, y, one.cca, one.weight)


def columns(layers: tuple[int, ...], xs: list[Tensor], kept: tuple[int, ...]) -> Tensor:
    """Columns of the layers that are kept, when `layers` stand side by side."""
    widths = [xs[i].shape[1] for i in layers]
    of_layer = dict(zip(layers, torch.split(torch.arange(sum(widths)), widths), strict=True))
    return torch.cat([of_layer[i] for i in kept])


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
