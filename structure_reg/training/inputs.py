"""The features of either side as the user passes them: arrays or tensors, one layer or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from structure_reg import _arrays as arrays
from structure_reg._checks import check_dense
from structure_reg._ids import id_values, number
from structure_reg.training._checks import (
    check_id_count,
    check_matrix,
    no_layer,
    no_layers,
)

Features = Any  # an (n, d) array or tensor, or a sequence or mapping of them


def as_source(function: str, name: str, features: Any) -> Any:
    """An array or a tensor as a tensor of any floating dtype, and an array on disk as it is."""
    check_dense(function, name, features)
    if is_on_disk(features):
        return features
    tensor = arrays.as_tensor(function, name, features)
    check_matrix(function, name, tensor)
    return tensor.detach()


def is_on_disk(features: Any) -> bool:
    """Whether an index reads only some rows, as for a data set of HDF5; NumPy's maps are arrays."""
    in_memory = isinstance(features, Tensor | np.ndarray) or hasattr(features, "__dlpack__")
    dtype = getattr(features, "dtype", None)
    return (
        not in_memory
        and isinstance(dtype, np.dtype)
        and dtype.kind == "f"
        and len(getattr(features, "shape", ())) == 2
        and hasattr(features, "__getitem__")
    )


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


def joined(layers: Sequence[Tensor]) -> Tensor:
    """Layers side by side, (n, Σ d)."""
    return layers[0] if len(layers) == 1 else torch.cat(list(layers), 1)


def layers_of_blend(layer: Any) -> list[Any]:
    """The layers of a blend, which is a list of them; one layer stands for itself."""
    return layer if isinstance(layer, list) else [layer]


def as_ids(function: str, ids: Any, x: Any) -> Tensor | None:
    """Number ids of any kind in order of first appearance; on the device of x."""
    if ids is None:
        return None
    numbers = number(id_values(function, "ids", ids), {})
    check_id_count(function, numbers, x)
    return numbers.to(x.device)


def as_given(result: Tensor, features: Any) -> Any:
    """A tensor if the features were one, otherwise an array."""
    return result if isinstance(features, Tensor) else result.cpu().numpy()


def read(source: Any, rows: slice | Tensor, device: torch.device) -> Tensor:
    """Rows of a source in float32; of a disk, in the order in which they lie there."""
    if isinstance(rows, slice):
        return as_float32(source[rows], device)
    order = rows.argsort()
    index = rows[order].cpu()
    if isinstance(source, Tensor):
        x = as_float32(source[index.to(source.device)], device)
    else:
        x = as_float32(source[index.numpy()], device)
    return x[order.argsort().to(device)]


def as_float32(x: Any, device: torch.device) -> Tensor:
    return arrays.as_tensor("Aligner", "features", x).to(device, torch.float32)
