"""Freezing a module inside a model that trains."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from torch import nn

from structure_reg.features._checks import check_module


def freeze(module: nn.Module) -> ExitStack:
    """Turn off the gradients of a module's parameters and keep it in eval mode.

    ``requires_grad_(False)`` alone does not freeze a module: ``model.train()`` in the training loop
    turns dropout back on and lets batch norm update its statistics. After ``freeze``, ``train()``
    has no effect on the module or any part of it. Gradients still flow through to its inputs.

    Parameters
    ----------
    module : nn.Module
        Module to freeze, in place. It can still be copied and pickled; copies are frozen too.

    Returns
    -------
    contextlib.ExitStack
        Stack that restores every gradient flag, training flag and ``train`` method on ``close()``
        or at the end of a ``with`` block. Ignore it to keep the module frozen. Undo nested calls in
        reverse order.

    Raises
    ------
    TypeError
        If `module` is not an ``nn.Module``.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2))
    >>> frozen = freeze(model[0])
    >>> _ = model.train()
    >>> model[0].training, model[1].training
    (False, True)
    >>> frozen.close()
    >>> _ = model.train()
    >>> model[0].training
    True
    """
    check_module("freeze", "module", module)
    undo = ExitStack()
    for parameter in module.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(False)
    for part in module.modules():
        undo.callback(restore, part, part.training, vars(part).get("train"))
        part.training = False
        # A partial of a plain function, so that a copy or a pickle freezes the copy itself.
        vars(part)["train"] = partial(ignore_mode, part)
    return undo


def ignore_mode(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """Replace ``module.train(mode)`` while the module is frozen."""
    return module


def restore(module: nn.Module, training: bool, train: object) -> None:
    module.training = training
    if train is None:
        del vars(module)["train"]
    else:
        vars(module)["train"] = train
