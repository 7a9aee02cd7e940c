"""KLOT of unpaired rows: the heads match them as the map that was fitted to the pairs does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structure_reg._kernels.sinkhorn import column_potentials
from structure_reg._precision import full_precision
from structure_reg.losses.klot import Regularisation, tiled_loss
from structure_reg.training.batches import TRANSPORTED, Teacher, Unpaired

OPTIONS = Regularisation(epsilon=0.05, teacher_epsilon=0.05, iterations=50)


class Transport(nn.Module):
    r"""KLOT(f_x(u), f_y(v); g_x(u), g_y(v)) of unpaired rows, with a fixed map g as the teacher."""

    def __init__(self, g_x: nn.Module, g_y: nn.Module, weight: float) -> None:
        super().__init__()
        self.g_x, self.g_y = g_x.requires_grad_(False), g_y.requires_grad_(False)
        self.weight = weight

    def forward(
        self,
        unpaired: tuple[Tensor, Tensor],
        aligned: tuple[Tensor, Tensor],
        teacher: Teacher | None = None,
    ) -> Tensor:
        """The term of the first rows of a sample, or of all rows with the teacher's own plan."""
        x, y = (z[:TRANSPORTED] for z in aligned)
        if teacher is None:
            u, v = unpaired
            t_x, t_y, potentials = self.g_x(u[:TRANSPORTED]), self.g_y(v[:TRANSPORTED]), None
        else:
            t_x, t_y, potentials = teacher
        with full_precision(x.device):
            return tiled_loss(x, y, t_x, t_y, OPTIONS, None, potentials)

    @torch.no_grad()
    def teacher(self, u: Tensor, v: Tensor) -> Teacher:
        """Compute the teacher's plan of rows that every step sees."""
        t_x, t_y = self.g_x(u), self.g_y(v)
        _, epsilon, iterations = OPTIONS
        return Teacher(t_x, t_y, column_potentials(t_x, t_y, epsilon, iterations, None))


def have_plans(unpaired: Unpaired | None) -> bool:
    """Whether there is more than one way to transport the rows of x to those of y."""
    return unpaired is not None and min(map(len, unpaired)) > 1
