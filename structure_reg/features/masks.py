"""Finding the mask of the tokens among the inputs of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from itertools import zip_longest
from typing import Any, NamedTuple

from torch import Tensor, nn

from structure_reg.features._checks import check_mask_type, no_one_mask, no_readable_mask, no_tokens

SHOWN = ("attention_mask", "decoder_attention_mask", "pixel_attention_mask")  # nonzero at tokens
HIDDEN = tuple(f"{of}key_padding_mask" for of in ("", "src_", "tgt_", "memory_"))  # zero at tokens


class Masks(NamedTuple):
    """What the inputs of a model say about padding; all fields are empty if nothing can be."""

    known: tuple[Tensor, ...] = ()  # (B, L), nonzero at tokens
    unknown: Mapping[str, Tensor] = {}  # of a name that does not say what nonzero means
    ids: tuple[Tensor, ...] = ()  # integers (B, L): texts of different lengths, padded
    has_floats: bool = False  # among the inputs, as of an image beside a text


def positional_names(model: nn.Module) -> list[str]:
    """Return the names under which a model takes its positional arguments."""
    try:
        parameters = signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [parameter.name for parameter in parameters if parameter.kind in by_position]


def find_masks(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Masks:
    """Look through all inputs, nested ones too, under the names that the model gives them."""
    tensors = [*named_tensors(kwargs)]
    for name, value in zip_longest(names[: len(args)], args, fillvalue=""):
        tensors += named_tensors(value, name)
    shown = [x for name, x in tensors if name in SHOWN]
    hidden = [x == 0 for name, x in tensors if name in HIDDEN]
    others = [(name, x) for name, x in tensors if name not in (*SHOWN, *HIDDEN)]
    return Masks(
        known=(*shown, *hidden),
        unknown={name: x for name, x in others if "mask" in name and x.ndim == 2},
        ids=tuple(x for name, x in others if "mask" not in name and is_integer(x) and x.ndim == 2),
        has_floats=any(x.is_floating_point() and "mask" not in name for name, x in others),
    )


def named_tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from named_tensors(entry, str(key))
    elif isinstance(value, tuple | list):
        for entry in value:
            yield from named_tensors(entry, name)


def is_integer(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex()) and x.element_size() > 1


def given_mask(function: str, mask: Any) -> Masks:
    """Take the answer of the caller's function; None says that there is no padding."""
    check_mask_type(function, mask)
    return Masks() if mask is None else Masks(known=(mask,))


def mask_of(
    function: str, x: Any, masks: Masks, pool: Any, same: Callable[[Tensor, Tensor], bool]
) -> Tensor | None:
    """Choose the mask of a layer's tokens x (B, L, d), or refuse to guess that there is none."""
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[1] == 1:
        return masks.known[0] if masks.known else None
    tokens = x.shape[:2]
    fitting = [mask for mask in masks.known if mask.shape == tokens]
    if fitting:
        if not all(mask is fitting[0] or same(mask, fitting[0]) for mask in fitting):
            raise no_one_mask(function, len(fitting), x)
        return fitting[0]
    if masks.known:
        return masks.known[0]
    if pool in ("mean", "last"):
        for name, mask in masks.unknown.items():
            if mask.shape == tokens:
                raise no_readable_mask(function, name)
        if any(ids.shape == tokens or not masks.has_floats for ids in masks.ids):
            raise no_tokens(function, pool)
    return None
