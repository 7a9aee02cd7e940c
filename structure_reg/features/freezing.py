"""A module that stays as it is, whatever its parent does."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

from torch import nn

from structure_reg.features._checks import check_encoder


def freeze(module: nn.Module) -> ExitStack:
    """Turn off the gradients of a module's parameters and pin it in eval mode.

    ``requires_grad_(False)`` alone is not frozen: the training loop's ``model.train()`` turns
    dropout back on and lets batch norm move. Here ``train()`` no longer reaches the module or any
    part of it. Gradients still flow through to its inputs.

    Parameters
    ----------
    module : nn.Module
        Changed in place. It can be copied and pickled as before; a copy is frozen too.

    Returns
    -------
    contextlib.ExitStack
        Puts every gradient flag, training flag and ``train`` method back as it was: on ``close()``,
        or at the end of a ``with`` block. To stay frozen, ignore it. Undo several in reverse order.

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
    check_encoder("freeze", "module", module)
    undo = ExitStack()
    for parameter in module.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(False)
    for part in module.modules():
        undo.callback(restore, part, part.training, vars(part).get("train"))
        part.training = False
        # A partial of a plain function, so that copies and pickles pin the copy.
        vars(part)["train"] = partial(stay, part)
    return undo


def stay(module: nn.Module, mode: bool = True) -> nn.Module:  # noqa: ARG001
    """What ``module.train(mode)`` is while the module is frozen."""
    return module


def restore(module: nn.Module, training: bool, train: object) -> None:
    module.training = training
    if train is None:
        del vars(module)["train"]
    else:
        vars(module)["train"] = train
