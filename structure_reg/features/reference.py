"""The frozen side of the loss, read from a model while it trains: :class:`ReferenceTap`."""

from __future__ import annotations

from collections.abc import Callable
from operator import is_
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from structure_reg.features._checks import (
    check_layer_output,
    check_mask_shape,
    check_module,
    check_module_name,
    check_pool,
    check_pooled_rows,
    no_module,
    no_tapped_rows,
    warn_reference_trains,
)
from structure_reg.features.axes import Axes
from structure_reg.features.encoder import first_item, unwrap
from structure_reg.features.masks import Masks, find_masks, given_mask, mask_of, positional_names
from structure_reg.features.pooling import POOLS, Pool, pool_rows

NAME = "ReferenceTap"


class ReferenceTap:
    """Detached rows of a layer inside a model, from the model's last forward pass.

    It serves models that return only projected features, while :func:`structure_loss` needs the
    encoder's features before the projection. The tap reads the forward pass that trains the model,
    so there is no second one.

    Parameters
    ----------
    model : nn.Module
        Model that the training loop calls. Tap it before DistributedDataParallel or
        ``torch.compile`` wraps it; an existing wrapper is bypassed.
    layer : str
        Name of the module before the projection (``dict(model.named_modules())``). The tap reads
        its output, or the first item of a tuple.
    pool : {"cls", "mean", "last"} or callable
        How tokens become one row per sample, as in :func:`extract_features`. A function may take
        any output: ``pool=lambda output, mask: output["sentence_embedding"]``.
    mask : callable, optional
        Function that takes the arguments of the model and returns the mask of its tokens, of shape
        (B, L), nonzero at tokens and zero at padding, or None if there is no padding. By default,
        the mask among the arguments, found as in :func:`extract_features`.

    Raises
    ------
    TypeError
        If an argument, or the layer's output, is of the wrong type.
    ValueError
        If the layer does not exist (the message lists candidates), if a mask does not fit or is
        missing, or if `rows` is read although the last forward pass did not reach the layer.

    Warns
    -----
    UserWarning
        Once, if parameters at or before the layer train, because the reference then moves with
        them.

    See Also
    --------
    freeze : Keep the tapped encoder constant; if it trains, its reference moves with it.
    extract_features : All rows of a dataset, before training.

    Notes
    -----
    Only calls of the model itself count: the recomputation of activation checkpoints and calls of
    submodules do not change the rows. If a layer runs several times within a call, its last output
    is kept. No tensor value is read, so the tap never makes the host wait for a GPU.

    A tower may be frozen in part: what matters is that nothing at or before the layer trains.
    ``freeze(model.blocks[:6])`` and a tap on ``"blocks.5"`` need a frozen embedding as well; blocks
    after the layer, adapters among them, may train. The warning follows the gradient back from the
    rows to the parameters. Under ``torch.compile`` it looks at the layer's own parameters.

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
        check_module(NAME, "model", model)
        check_module_name(NAME, "layer", layer)
        check_pool(NAME, pool, POOLS)
        model = unwrap(model)
        modules = dict(model.named_modules(remove_duplicate=False))
        if layer not in modules:
            raise no_module(NAME, layer, model, modules)
        self.layer = layer
        self.pool = pool
        self.mask = mask
        self._names = positional_names(model)
        self._axes = Axes(model)
        self._model = model
        self._module = modules[layer]
        self._rows: Tensor | None = None
        self._masks = Masks()
        self._running = False
        self._checked = False
        self._hooks = [
            model.register_forward_pre_hook(self._start_pass, prepend=True, with_kwargs=True),
            self._module.register_forward_hook(self._keep_rows),
            model.register_forward_hook(self._end_pass, always_call=True),
        ]

    @property
    def rows(self) -> Tensor:
        """Rows (B, d) of the last forward pass, without gradient."""
        if self._rows is None:
            raise no_tapped_rows(NAME, self.layer)
        if not self._checked and self._model.training and trainable(self._module):
            self._checked = True
            warn_reference_trains(NAME, self.layer)
        return self._rows

    def close(self) -> None:
        """Remove the hooks and keep the rows."""
        for hook in self._hooks:
            hook.remove()
        self._axes.close()

    def _start_pass(self, _model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._rows = None
        if self.mask is None:
            self._masks = find_masks(self._names, args, kwargs)
        else:
            self._masks = given_mask(NAME, self.mask(*args, **kwargs))
        self._running = True

    def _keep_rows(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not self._running:
            return
        x = first_item(output)
        if isinstance(self.pool, str):
            check_layer_output(NAME, x)
            x = self._axes.arrange(NAME, self.layer, module, x)
        # The shape alone: reading the mask's values would make the host wait for the GPU.
        mask = mask_of(NAME, x, self._masks, self.pool, is_)
        rows = pool_rows(x, mask, self.pool, function=NAME, check_mask=check_mask_shape)
        check_pooled_rows(NAME, rows)
        if not (self._checked or torch.compiler.is_compiling()) and self._model.training:
            self._checked = True
            if rows.requires_grad and (trainable(module) or reaches(rows, self._model)):
                warn_reference_trains(NAME, self.layer)
        # A copy: the next module may write into the memory of this one's output.
        self._rows = rows.detach().clone()

    def _end_pass(self, _model: nn.Module, _args: Any, _output: Any) -> None:
        self._running = False
        self._masks = Masks()
        if self._rows is not None and not torch.compiler.is_compiling():
            self._axes.close()

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


def trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def reaches(rows: Tensor, model: nn.Module) -> bool:
    """Whether a gradient of the rows reaches a parameter of the model, not only its inputs."""
    parameters = {id(parameter) for parameter in model.parameters()}
    nodes, seen = [rows.grad_fn], {None, rows.grad_fn}
    while nodes:
        node = nodes.pop()
        if id(getattr(node, "variable", None)) in parameters:
            return True
        following = {after for after, _ in getattr(node, "next_functions", ())} - seen
        seen |= following
        nodes += following
    return False
