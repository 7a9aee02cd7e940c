"""The heads before training: by name, from a closed form or at random."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from structure_reg.heads.asif import fit_asif
from structure_reg.heads.cca import fit_cca
from structure_reg.heads.cca_selection import select_cca
from structure_reg.heads.csa import fit_csa
from structure_reg.heads.gated import GatedHead
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.procrustes import fit_procrustes
from structure_reg.heads.residual import ResidualHead
from structure_reg.heads.ridge import fit_ridge
from structure_reg.losses.clip import ClipLoss
from structure_reg.losses.structure import StructureLoss
from structure_reg.losses.temperature import temperature_for_perplexity
from structure_reg.training.objective import Objective

if TYPE_CHECKING:
    from structure_reg.training.aligner import Aligner
    from structure_reg.training.loop import Pairs

PERPLEXITY = 40.0

Heads = tuple[nn.Module, nn.Module]

TRAINED: dict[str, Callable[[int, int], nn.Module]] = {
    "linear": LinearHead,
    "residual": ResidualHead,
    "mlp": MlpHead,
    "sail": GatedHead,
}
CLOSED: dict[str, Callable[[Tensor, Tensor, int | None], Heads]] = {
    "ridge": lambda x, y, _: fit_ridge(x, y),
    "cca": lambda x, y, dim: fit_cca(x, y, dim=dim),
    "csa": lambda x, y, dim: fit_csa(x, y, dim=dim),
    "procrustes": lambda x, y, dim: fit_procrustes(x, y, dim=dim),
    "asif": lambda x, y, _: fit_asif(x, y),
}


def made(head: Any, d_x: int, d_y: int, dim: int, *, mlp: bool) -> Heads:
    """Heads to train, of random weights; a pair of modules is taken as it is.

    An MLP that is to start at a linear map has hidden features for its positive and negative part.
    """
    if isinstance(head, Sequence) and not isinstance(head, str):
        return head[0], head[1]
    make = TRAINED[head] if isinstance(head, str) else head
    if head == "mlp" and mlp:
        make = partial(MlpHead, hidden_features=2 * dim)
    return make(d_x, dim), make(d_y, dim)


@torch.no_grad()
def start_linear(head: nn.Module, W: LinearHead) -> None:
    r"""Set a head to the linear map W, at the size of weights that it was made with.

    The contrastive loss and STRUCTURE see directions alone, so that the size of W is free; the one
    it gets is that of `torch.nn.Linear`, for which learning rates are known.

    - linear: :math:`W x + b`
    - residual: its :math:`P`, with :math:`W_2 = 0` as it starts
    - MLP: :math:`[W, -W] \operatorname{ReLU}(\pm \cdot)`, exact: relu(a) - relu(-a) = a
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


def shared_width(dim: int, x: Tensor, y: Tensor) -> int:
    """As many directions as were asked for, or as the pairs and widths have."""
    return min(dim, len(x) - 1, x.shape[1], y.shape[1])


def starting_objective(o: Aligner, pairs: Pairs) -> Objective:
    """The heads at their start, with the losses and the scale they are trained by."""
    x, y = pairs.x, pairs.y
    structured = o.structure_weight > 0
    closed = o.start == "cca" and isinstance(o.head, str) and o.head != "sail"
    references: Heads = nn.Identity(), nn.Identity()
    scale = 1 / 0.07
    if closed or (structured and o.keep == "shared"):
        found = select_cca(x, y, ids=pairs.ids, standardise=False)
        dim = shared_width(o.dim, x, y)
        maps = fit_cca(x, y, dim=dim, ridge=found.ridge, power=found.power, standardise=False)
    if structured and o.keep == "shared":
        references = maps
    dim = shared_width(o.dim, x, y) if closed else o.dim
    head_x, head_y = made(o.head, x.shape[1], y.shape[1], dim, mlp=closed)
    if closed:
        scale = found.logit_scale
        for head, W in zip((head_x, head_y), maps, strict=True):
            start_linear(head.to(x.device), W)
    structures = None
    if structured:
        g_x, g_y = references
        structures = side_structure(o, g_x(x)), side_structure(o, g_y(y))
    objective = Objective(
        head_x,
        head_y,
        o.contrastive or ClipLoss(),
        structures,
        references,
        scale if o.logit_scale is None else o.logit_scale,
        learn_scale=o.logit_scale is None,
    )
    return objective.to(x.device)


def side_structure(o: Aligner, kept: Tensor) -> nn.Module:
    """The module that was given, or STRUCTURE at the temperature of a perplexity."""
    if o.structure is not None:
        return o.structure
    # As many rows as a batch has, from all over: data sets come sorted.
    rows = kept.detach()[:: max(1, len(kept) // o.batch_size)][: o.batch_size]
    perplexity = min(PERPLEXITY, len(rows) / 3)
    return StructureLoss(temperature=temperature_for_perplexity(rows, perplexity))
