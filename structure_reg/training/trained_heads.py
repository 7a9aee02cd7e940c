"""Heads that are trained: at random weights, or started at a linear map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from structure_reg.heads.gated import GatedHead
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.residual import ResidualHead
from structure_reg.training.closed_form import Heads

TRAINED: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": LinearHead,
    "residual": ResidualHead,
    "mlp": MlpHead,
    "sail": GatedHead,
}
WITH_LINEAR_START = ("linear", "residual", "mlp")


def random_heads(head: Any, d_x: int, d_y: int, dim: int) -> Heads:
    """Heads of random weights by name or from a callable; a pair of modules is used as it is."""
    if isinstance(head, Sequence) and not isinstance(head, str):
        return head[0], head[1]
    make = TRAINED[head] if isinstance(head, str) else head
    return make(d_x, dim), make(d_y, dim)


def heads_at(head: str, W_x: LinearHead, W_y: LinearHead) -> Heads:
    """Heads of the kind `head` that compute the linear maps W."""
    dim = W_x.out_features
    # An MLP represents a linear map by its positive and its negative part.
    make = partial(MlpHead, hidden_features=2 * dim) if head == "mlp" else TRAINED[head]
    f_x, f_y = make(W_x.in_features, dim), make(W_y.in_features, dim)
    for f, W in ((f_x, W_x), (f_y, W_y)):
        start_linear(f.to(W.weight.device), W)
    return f_x, f_y


@torch.no_grad()
def start_linear(head: nn.Module, W: LinearHead) -> None:
    r"""Set a head to the linear map W, rescaled to the magnitude of its own initial weights.

    The contrastive loss and STRUCTURE depend on directions only, so the magnitude of W is free. It
    is set to that of `torch.nn.Linear`, for which good learning rates are known.

    - linear: :math:`W x + b`
    - residual: its :math:`P`, with :math:`W_2 = 0` as it starts
    - MLP: :math:`[W, -W] \operatorname{ReLU}(\pm \cdot)`, exact since relu(a) - relu(-a) = a
    """
    size = 1 / (3 * W.in_features) ** 0.5
    factor = size / W.weight.square().mean().sqrt()
    weight, bias = factor * W.weight, factor * W.bias
    if isinstance(head, LinearHead):
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    elif isinstance(head, ResidualHead):
        head.P.weight.copy_(weight)
    elif isinstance(head, MlpHead):
        identity = torch.eye(len(weight), device=weight.device)
        head.W1.weight.copy_(torch.cat([weight, -weight]))
        head.W1.bias.copy_(torch.cat([bias, -bias]))
        head.W2.weight.copy_(torch.cat([identity, -identity], 1))
        head.W2.bias.zero_()
