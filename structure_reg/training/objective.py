"""What is minimised: a contrastive loss of the pairs, STRUCTURE, and KLOT of unpaired rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from structure_reg.losses.clip import MAX_LOGIT_SCALE
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.siglip import LOGIT_BIAS, SigLipLoss
from structure_reg.losses.structure import StructureLoss
from structure_reg.training.batches import Batch
from structure_reg.training.closed_form import Heads
from structure_reg.training.transport import Transport

Anchors = tuple[Tensor, Tensor]  # frozen and aligned rows

LOG_MAX_SCALE = math.log(MAX_LOGIT_SCALE)


class Terms(NamedTuple):
    """The objective of a batch, and its parts."""

    total: Tensor
    contrastive: Tensor
    structure: Tensor  # mean of both sides, without its weight
    transport: Tensor  # KLOT of the unpaired rows, without its weight


class SideStructure(nn.Module):
    """STRUCTURE of one side, R(g(x), z), with a fixed map g of the frozen features."""

    def __init__(self, term: nn.Module, reference: nn.Module) -> None:
        super().__init__()
        self.term = term
        self.reference = reference.requires_grad_(False)

    def forward(
        self,
        x: Tensor | FrozenStructure,
        z: Tensor,
        anchors: Anchors | None = None,
    ) -> Tensor:
        """R of a batch; `x` and the first of `anchors` are frozen features before the map g."""
        frozen = x if isinstance(x, FrozenStructure) else self.reference(x)
        if anchors is None:
            value: Tensor = self.term(frozen, z)
        else:
            value = self.term(frozen, z, anchors=(self.reference(anchors[0]), anchors[1]))
        return value

    def prepared(self, x: Tensor) -> FrozenStructure | None:
        """Prepare the neighbourhoods of rows that every step sees, if the term can use them."""
        R = self.term
        if not isinstance(R, StructureLoss) or R.group is not None:
            return None
        return FrozenStructure(
            self.reference(x), temperature=R.temperature, levels=R.levels, centering=R.centering
        )


class Objective(nn.Module):
    r"""The two heads and the scale of the cosines, with the terms they are trained on.

    .. math:: L(z_x, z_y; s) + \lambda_t \tfrac12 \bigl( R(g_x(x), z_x) + R(g_y(y), z_y) \bigr)
              + \alpha \operatorname{KLOT}(z_u, z_v)

    with fixed maps g: the identity, or the directions that both sides share. The last term is of
    unpaired rows, where there are some.
    """

    def __init__(
        self,
        heads: Heads,
        contrastive: nn.Module,
        structures: tuple[SideStructure, SideStructure] | None,
        weight: float,
        logit_scale: float,
        *,
        learn_scale: bool,
        transport: Transport | None = None,
    ) -> None:
        super().__init__()
        self.head_x, self.head_y = heads
        self.contrastive = contrastive
        self.structure_x: SideStructure | None
        self.structure_y: SideStructure | None
        self.structure_x, self.structure_y = structures or (None, None)
        self.weight, self.transport = weight, transport
        self.log_scale = nn.Parameter(torch.tensor(logit_scale).log(), requires_grad=learn_scale)
        if isinstance(contrastive, SigLipLoss):
            self.bias = nn.Parameter(torch.tensor(LOGIT_BIAS))

    def scale(self) -> Tensor:
        """Scale of the cosines; a learned one is at most 100."""
        learned = self.log_scale.requires_grad
        log_scale = self.log_scale.clamp(max=LOG_MAX_SCALE) if learned else self.log_scale
        return log_scale.exp()

    def forward(self, batch: Batch, share: float) -> Terms:
        """Terms of a batch, with STRUCTURE at a share of its weight."""
        z_x, z_y = self.head_x(batch.x), self.head_y(batch.y)
        scale = self.scale()
        bias = (self.bias,) if isinstance(self.contrastive, SigLipLoss) else ()
        L = self.contrastive(z_x, z_y, scale, *bias, ids=batch.ids)
        total, R, T = L, torch.zeros_like(L), torch.zeros_like(L)
        if self.structure_x is not None and self.structure_y is not None:
            frozen_x, frozen_y = batch.frozen or (batch.x, batch.y)
            anchors_x, anchors_y = self.anchors(batch)
            R_x = self.structure_x(frozen_x, z_x, anchors_x)
            R_y = self.structure_y(frozen_y, z_y, anchors_y)
            R = R_x / 2 + R_y / 2
            total = total + self.weight * share * R
        if self.transport is not None and batch.unpaired is not None:
            u, v = batch.unpaired
            T = self.transport(u, v, (self.head_x, self.head_y))
            total = total + self.transport.weight * T
        return Terms(total, L, R, T)

    def anchors(self, batch: Batch) -> tuple[Anchors | None, Anchors | None]:
        """Unpaired rows of both sides with their images, for STRUCTURE if they have no own term."""
        if batch.unpaired is None or self.transport is not None:
            return None, None
        u, v = batch.unpaired
        return (u, self.head_x(u)), (v, self.head_y(v))

    def follow(self) -> None:
        """Let the teacher of the unpaired rows follow the heads, after a step."""
        if self.transport is not None:
            self.transport.follow((self.head_x, self.head_y))

    def prepared(self, x: Tensor, y: Tensor) -> tuple[FrozenStructure, FrozenStructure] | None:
        """Prepare the neighbourhoods of both sides, if both can be."""
        R_x, R_y = self.structure_x, self.structure_y
        if R_x is None or R_y is None:
            return None
        of_x, of_y = R_x.prepared(x), R_y.prepared(y)
        return None if of_x is None or of_y is None else (of_x, of_y)
