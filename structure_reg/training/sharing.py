"""The gradients of one batch, of which each process computes its part where that is exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from structure_reg._distributed import own_rows, processes
from structure_reg.heads.gated import GatedHead
from structure_reg.heads.linear import LinearHead
from structure_reg.heads.mlp import MlpHead
from structure_reg.heads.residual import ResidualHead
from structure_reg.losses.clip import ClipLoss
from structure_reg.losses.siglip import SigLipLoss
from structure_reg.losses.structure import StructureLoss
from structure_reg.training.batches import Batch
from structure_reg.training.objective import Objective, SideStructure, Terms

ROW_BY_ROW = (nn.Linear, LinearHead, ResidualHead, MlpHead, GatedHead)
WITH_GROUP = (ClipLoss, SigLipLoss, StructureLoss)


def backward(objective: Objective, batch: Batch, share: float, group: Any) -> Terms:
    """Terms of a batch after their backward pass; equal on all processes."""
    if not can_be_shared(objective, batch, group):
        terms: Terms = objective(batch, share)
        terms.total.backward()  # type: ignore[no-untyped-call]
        return terms
    with losses_over(objective, group):
        terms = objective(own_part(batch, group), share)
        terms.total.backward()  # type: ignore[no-untyped-call]
    average_gradients(objective, group)
    return terms


def can_be_shared(objective: Objective, batch: Batch, group: Any) -> bool:
    """Whether parts of the batch give its gradients: modules of others see all of it instead."""
    return (
        group is not None
        and len(batch.x) % processes(group) == 0
        and all(is_row_by_row(head) for head in (objective.head_x, objective.head_y))
        and all(takes_group(loss) for loss in losses_of(objective))
    )


def is_row_by_row(head: nn.Module) -> bool:
    """Whether a row's image depends on this row alone; dropout draws for all rows at once."""
    drops = any(isinstance(m, nn.Dropout) and m.p > 0 for m in head.modules())
    return type(head) in ROW_BY_ROW and not drops


def takes_group(loss: nn.Module) -> bool:
    return type(loss) in WITH_GROUP and loss.group is None and loss.reduction == "mean"


def losses_of(objective: Objective) -> list[nn.Module]:
    """Terms of the batch: one that is not known to take a group is not shared."""
    # The unpaired rows are the same on every process, and so are the gradients of their own term.
    others = ("head_x", "head_y", "transport")
    terms = [m for name, m in objective.named_children() if name not in others]
    return [m.term if isinstance(m, SideStructure) else m for m in terms]


@contextmanager
def losses_over(objective: Objective, group: Any) -> Iterator[None]:
    """Losses of the rows of all processes inside; those of validation are of the rows here."""
    losses: list[Any] = losses_of(objective)
    try:
        for loss in losses:
            loss.group = group
        yield
    finally:
        for loss in losses:
            loss.group = None


def own_part(batch: Batch, group: Any) -> Batch:
    """This process's rows; what is prepared, and what is unpaired, stays whole on each."""
    own = own_rows(len(batch.x) // processes(group), group)
    ids = None if batch.ids is None else batch.ids[own]
    return batch._replace(x=batch.x[own], y=batch.y[own], ids=ids)


def average_gradients(module: nn.Module, group: Any) -> None:
    """The mean over processes, as under DistributedDataParallel; in one collective."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in gradients]) / processes(group)
    dist.all_reduce(flat, group=group)
    means = torch.split(flat, [grad.numel() for grad in gradients])
    for grad, mean in zip(gradients, means, strict=True):
        grad.copy_(mean.view_as(grad))
