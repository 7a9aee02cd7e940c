"""What is minimised: a contrastive loss of the pairs, and STRUCTURE of both sides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from structure_reg.losses.frozen import FrozenStructure
from structure_reg.losses.siglip import SigLipLoss

Unpaired = tuple[Tensor, Tensor]  # rows of x and rows of y that are paired with nothing


class Terms(NamedTuple):
    """The objective of a batch, and what it is made of."""

    total: Tensor
    contrastive: Tensor
    structure: Tensor  # mean of both sides, without its weight


class Objective(nn.Module):
    r"""The two heads and the scale of the cosines, with what they are trained on.

    .. math:: L(z_x, z_y; s) + \lambda_t \tfrac12 \bigl( R(g_x(x), z_x) + R(g_y(y), z_y) \bigr)

    with fixed maps g: the identity, or the directions that the two sides share.
    """

    def __init__(
        self,
        head_x: nn.Module,
        head_y: nn.Module,
        contrastive: nn.Module,
        structures: tuple[nn.Module, nn.Module] | None,
        references: tuple[nn.Module, nn.Module],
        logit_scale: float,
        *,
        learn_scale: bool,
    ) -> None:
        super().__init__()
        self.head_x, self.head_y = head_x, head_y
        self.contrastive = contrastive
        self.structures = None if structures is None else nn.ModuleList(structures)
        self.references = nn.ModuleList(references).requires_grad_(False)
        self.log_scale = nn.Parameter(torch.tensor(logit_scale).log(), requires_grad=learn_scale)
        if isinstance(contrastive, SigLipLoss):
            self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None,
        weight: float,
        frozen: tuple[FrozenStructure, FrozenStructure] | None = None,
        unpaired: Unpaired | None = None,
    ) -> Terms:
        """Terms of a batch; `frozen` are its neighbourhoods, if they were prepared."""
        z_x, z_y = self.head_x(x), self.head_y(y)
        scale = self.log_scale.clamp(max=4.6052).exp()  # at most 100, as in CLIP
        if isinstance(self.contrastive, SigLipLoss):
            contrastive = self.contrastive(z_x, z_y, scale, self.bias, ids=ids)
        else:
            contrastive = self.contrastive(z_x, z_y, scale, ids=ids)
        if self.structures is None:
            return Terms(contrastive, contrastive, torch.zeros_like(contrastive))
        g_x, g_y = self.references
        kept = frozen or (g_x(x), g_y(y))
        structure = torch.zeros_like(contrastive)
        for side, (R, z) in enumerate(zip(self.structures, (z_x, z_y), strict=True)):
            if unpaired is None:
                structure = structure + R(kept[side], z) / 2
            else:
                u, head = unpaired[side], (self.head_x, self.head_y)[side]
                anchors = self.references[side](u), head(u)
                structure = structure + R(kept[side], z, anchors=anchors) / 2
        return Terms(contrastive + weight * structure, contrastive, structure)
