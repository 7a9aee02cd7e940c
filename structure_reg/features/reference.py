"""The frozen side of the loss, taken out of a model while it trains: :class:`ReferenceTap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from torch import Tensor, nn

from structure_reg.features._checks import (
    check_encoder,
    check_layer_output,
    check_mask_kind,
    check_mask_shape,
    check_name,
    check_pool,
    check_pooled,
    no_module,
    no_reference,
)
from structure_reg.features.encoder import unwrapped
from structure_reg.features.pooling import POOLS, Pool, pool_rows

NAME = "ReferenceTap"


class ReferenceTap:
    """The rows that a layer inside a model had in the model's last forward pass, detached.

    For models that return projected features only, while :func:`structure_loss` wants what the
    encoder gave the projection. The forward pass that trains is the one that is tapped; there is
    no second.

    Parameters
    ----------
    model : nn.Module
        The one that is called. Tap it before DistributedDataParallel or ``torch.compile`` wrap it;
        a wrapper that is there already is passed by.
    layer : str
        The name of the module before the projection (``dict(model.named_modules())``); what it
        returns is taken, or the first item of a tuple.
    pool : {"cls", "mean", "last"} or callable
        As in :func:`extract_features`: from tokens to one row per sample. A function may pick from
        any output, ``pool=lambda output, mask: output["sentence_embedding"]``.
    mask : callable, optional
        Called with what the model is called with, returns the mask of shape (B, L) of its tokens,
        nonzero where there is one. By default the ``attention_mask`` among the keywords, or of a
        mapping that is passed.

    Raises
    ------
    TypeError
        If an argument, or what the layer returns, is of the wrong kind.
    ValueError
        If the layer does not exist (the message lists candidates), a mask does not fit, or rows
        are read that the last forward pass has not made.

    See Also
    --------
    freeze : Keeps what is tapped a constant: a training encoder moves its own reference.
    extract_features : All rows of a data set, before training.

    Notes
    -----
    Only calls of the model itself count. The recomputation of activation checkpoints and calls of
    a part leave the rows alone; a layer that runs several times within a call leaves its last. No
    value is read, so that no GPU waits.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    >>> _ = freeze(model[0])
    >>> with ReferenceTap(model, "0", pool="mean") as tap:
    ...     aligned = model(torch.randn(32, 8))
    ...     loss = structure_loss(tap.rows, aligned)
    >>> tap.rows.shape, tap.rows.requires_grad
    (torch.Size([32, 16]), False)
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        *,
        pool: Pool,
        mask: Callable[..., Tensor | None] | None = None,
    ) -> None:
        check_encoder(NAME, "model", model)
        check_name(NAME, "layer", layer)
        check_pool(NAME, pool, POOLS)
        model = unwrapped(model)
        modules = dict(model.named_modules(remove_duplicate=False))
        if layer not in modules:
            raise no_module(NAME, layer, model, [name for name in modules if name])
        self.layer = layer
        self.pool = pool
        self.mask = mask or attention_mask
        self._rows: Tensor | None = None
        self._shown: Tensor | None = None
        self._running = False
        self._hooks = [
            model.register_forward_pre_hook(self._begin, prepend=True, with_kwargs=True),
            modules[layer].register_forward_hook(self._keep),
            model.register_forward_hook(self._end, always_call=True),
        ]

    @property
    def rows(self) -> Tensor:
        """The rows (B, d) of the last forward pass, without gradient."""
        if self._rows is None:
            raise no_reference(NAME, self.layer)
        return self._rows

    def close(self) -> None:
        """Remove the hooks; the rows stay."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._rows = None
        self._shown = self.mask(*args, **kwargs)
        check_mask_kind(NAME, self._shown)
        self._running = True

    def _keep(self, _module: nn.Module, _args: Any, output: Any) -> None:
        if not self._running:
            return
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if isinstance(self.pool, str):
            check_layer_output(NAME, output)
        rows = pool_rows(output, self._shown, self.pool, function=NAME, check=check_mask_shape)
        check_pooled(NAME, rows)
        # A copy: the next module may write into the memory of this one's output.
        self._rows = rows.detach().clone()

    def _end(self, _model: nn.Module, _args: Any, _output: Any) -> None:
        self._running = False
        self._shown = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Return the layer and the pool."""
        return f"ReferenceTap(layer={self.layer!r}, pool={self.pool!r})"


def attention_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask among what a model was called with: a keyword, or an entry of a mapping."""
    for given in (kwargs, *args):
        if isinstance(given, Mapping) and "attention_mask" in given:
            mask: Tensor | None = given["attention_mask"]
            return mask
    return None
