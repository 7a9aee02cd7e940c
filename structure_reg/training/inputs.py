"""The features of either side as the user passes them: arrays or tensors, one layer or several."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from structure_reg.training._checks import (
    check_finite,
    check_id_count,
    check_matrix,
    no_features,
    no_layer,
    no_layers,
)

Features = Any  # an (n, d) array or tensor, or a sequence or mapping of them


def as_tensor(function: str, name: str, features: Any, device: Any) -> Tensor:
    """An array or a tensor as (n, d) in float32, on its own device or on `device`."""
    if not isinstance(features, Tensor):
        if not hasattr(features, "__array__"):
            raise no_features(function, name, features)
        features = torch.as_tensor(features)
    check_matrix(function, name, features)
    tensor: Tensor = features.detach().to(device, torch.float32)
    return tensor


def has_layers(features: Features) -> bool:
    return isinstance(features, Mapping | Sequence) and not hasattr(features, "__array__")


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
    if isinstance(layer, int) and -len(names) <= layer < len(names):
        return features[names[layer]]
    raise no_layer(function, name, layer, names)


def finite_rows(function: str, name: str, features: Features, layer: Any, device: Any) -> Tensor:
    """Rows of one layer in float32, without NaN and infinity."""
    rows = as_tensor(function, name, layer_of(function, name, features, layer), device)
    check_finite(function, name, rows)
    return rows


def as_ids(function: str, ids: Any, x: Tensor) -> Tensor | None:
    """Number hashable ids, such as strings, in order of first appearance; on the device of x."""
    if ids is None:
        return None
    values: Iterable[Hashable] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
    number: dict[Hashable, int] = {}
    numbers = torch.tensor([number.setdefault(value, len(number)) for value in values])
    check_id_count(function, numbers, x)
    return numbers.to(x.device)


def as_given(result: Tensor, features: Any) -> Any:
    """A tensor if the features were one, otherwise an array."""
    return result if isinstance(features, Tensor) else result.cpu().numpy()
