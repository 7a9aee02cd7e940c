"""Where the samples and the features of a layer's output are, as far as its modules tell."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules import batchnorm, conv, pooling

from structure_reg.features._checks import no_feature_axis
from structure_reg.features.encoder import first_item

CHANNELS_SECOND = (
    conv._ConvNd,
    batchnorm._NormBase,
    nn.GroupNorm,
    *(pooling._MaxPoolNd, pooling._AvgPoolNd, pooling._LPPoolNd),
    *(pooling._AdaptiveMaxPoolNd, pooling._AdaptiveAvgPoolNd),
)
SEQUENCES = (
    *(nn.RNNBase, nn.MultiheadAttention, nn.TransformerEncoder, nn.TransformerEncoderLayer),
    *(nn.Transformer, nn.TransformerDecoder, nn.TransformerDecoderLayer),
)
# A subclass may permute its output, as the LayerNorm2d of timm does.
FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)


class Output(NamedTuple):
    """An output whose feature axis its module tells."""

    channels_second: bool
    width: int


class Axes:
    """Brings outputs into the form of tokens (B, L, d) or maps (B, C, ...).

    A convolution, or what only acts entry by entry after one, returns (B, C, T), which has as many
    axes as tokens. So the modules that tell are watched, and an output has the axes of the last one
    that ran, found by its width. Nothing is watched in models without convolutions.
    """

    def __init__(self, model: nn.Module) -> None:
        modules = [*model.modules()]
        watched = [m for m in modules if isinstance(m, CHANNELS_SECOND) or is_last(m)]
        convolves = any(isinstance(m, CHANNELS_SECOND) for m in watched)
        self._last: Output | None = None
        self._hooks = [m.register_forward_hook(self._note) for m in watched if convolves]
        self._second: dict[str, bool] = {}  # by layer, as the first batch told

    def close(self) -> None:
        """Stop watching; what the first batch told holds for the others."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _note(self, module: nn.Module, _args: Any, output: Any) -> None:
        x = first_item(output)
        if isinstance(x, Tensor) and x.ndim > 2:
            second = isinstance(module, CHANNELS_SECOND)
            self._last = Output(second, x.shape[1 if second else -1])

    def arrange(self, function: str, layer: str, module: nn.Module, x: Tensor) -> Tensor:
        """Return tokens (B, L, d) for outputs of three axes, and maps (B, C, ...) for more."""
        if x.ndim < 3:
            return x
        if layer not in self._second:
            second = channels_second(module, x, self._last)
            if second is None:
                raise no_feature_axis(function, layer, x)
            self._second[layer] = second
        if x.ndim == 3:
            x = x.mT if self._second[layer] else x
            return x.transpose(0, 1) if sequence_first(module) else x
        return x if self._second[layer] else x.movedim(-1, 1)


def channels_second(module: nn.Module, x: Tensor, last: Output | None) -> bool | None:
    """Whether x is (B, C, ...) rather than (B, ..., d); None if both may be."""
    if isinstance(module, CHANNELS_SECOND):
        return True
    if is_last(module):
        return False
    by_default = x.ndim > 3
    if last is None:
        return by_default
    second, final = x.shape[1] == last.width, x.shape[-1] == last.width
    if second != final:
        return second
    return None if last.channels_second and x.ndim == 3 else by_default


def is_last(module: nn.Module) -> bool:
    return type(module) in FEATURES_LAST or isinstance(module, SEQUENCES)


def sequence_first(module: nn.Module) -> bool:
    """Whether a module of torch was told to return (L, B, d)."""
    if not isinstance(module, SEQUENCES):
        return False
    told = [getattr(part, "batch_first", None) for part in module.modules()]
    return next((not first for first in told if first is not None), False)
