"""The features of either side as the user passes them: arrays or tensors, one layer or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from structure_reg import _arrays as arrays
from structure_reg._checks import check_dense
from structure_reg._ids import id_values, number
from structure_reg.training._checks import (
    check_finite,
    check_id_count,
    check_layer_rows,
    check_matrix,
    no_layer,
    no_layers,
)

Features = Any  # an (n, d) array or tensor, or a sequence or mapping of them


def as_tensor(function: str, name: str, features: Any, device: Any) -> Tensor:
    """An array or a tensor as (n, d) in float32, on its own device or on `device`."""
    tensor = arrays.as_tensor(function, name, features)
    check_dense(function, name, tensor)
    check_matrix(function, name, tensor)
    return tensor.detach().to(device, torch.float32)


def has_layers(features: Features) -> bool:
    return arrays.has_layers(features) and not arrays.is_one_array(features)


def layer_names(function: str, name: str, features: Features) -> list[Any]:
    """Keys of a mapping, or positions: [0] for one array."""
    if not has_layers(features):
        return [0]
    names = list(features) if isinstance(features, Mapping) else list(range(len(features)))
    if not names:
        raise no_layers(function, name)
    return names


def layer_of(function: str, name: str, features: Features, layer: Any) -> Any:
    """The only array, or the layer of that name or position, which may count from the end."""
    if not has_layers(features):
        return features
    names = layer_names(function, name, features)
    if isinstance(features, Mapping) and layer in features:
        return features[layer]
    if isinstance(layer, Integral) and -len(names) <= int(layer) < len(names):
        return features[names[int(layer)]]
    raise no_layer(function, name, layer, names)


def finite_layers(
    function: str, name: str, features: Features, layer: Any, device: Any
) -> list[Tensor]:
    """Rows of a layer, or of each layer of a blend, in float32 and without NaN and infinity."""
    layers = [
        as_tensor(function, name, layer_of(function, name, features, one), device)
        for one in layers_of_blend(layer)
    ]
    check_layer_rows(function, name, layers)
    for rows in layers:
        check_finite(function, name, rows)
    return layers


def joined(layers: Sequence[Tensor]) -> Tensor:
    """Layers side by side, (n, Σ d)."""
    return layers[0] if len(layers) == 1 else torch.cat(list(layers), 1)


def layers_of_blend(layer: Any) -> list[Any]:
    """The layers of a blend, which is a list of them; one layer stands for itself."""
    return layer if isinstance(layer, list) else [layer]


def as_ids(function: str, ids: Any, x: Tensor) -> Tensor | None:
    """Number ids of any kind in order of first appearance; on the device of x."""
    if ids is None:
        return None
    numbers = number(id_values(function, "ids", ids), {})
    check_id_count(function, numbers, x)
    return numbers.to(x.device)


def as_given(result: Tensor, features: Any) -> Any:
    """A tensor if the features were one, otherwise an array."""
    return result if isinstance(features, Tensor) else result.cpu().numpy()
