"""KLOT of unpaired rows: the heads match them as the map that was fitted to the pairs does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structure_reg._kernels.sinkhorn import column_potentials
from structure_reg._precision import full_precision
from structure_reg.losses.klot import Regularisation, tiled_loss
from structure_reg.training.batches import Teacher, Unpaired

# The teacher's plan is the sharper one: heads that reach it are surer than their teacher. Of equal
# ε the gain on folds was half of this, and with a softer teacher the term loses.
PLANS = Regularisation(epsilon=0.1, teacher_epsilon=0.05, iterations=20)


class Transport(nn.Module):
    r"""KLOT(f_x(u), f_y(v); g_x(u), g_y(v)) of unpaired rows, with a fixed map g as the teacher."""

    def __init__(self, g_x: nn.Module, g_y: nn.Module, weight: float) -> None:
        super().__init__()
        self.g_x, self.g_y = g_x.requires_grad_(False), g_y.requires_grad_(False)
        self.weight = weight

    def forward(self, z_u: Tensor, z_v: Tensor, teacher: Teacher | tuple[Tensor, Tensor]) -> Tensor:
        """The term of aligned rows; u and v, where their teacher is not prepared, are frozen."""
        if not isinstance(teacher, Teacher):
            teacher = self.prepared(*teacher)
        with full_precision(z_u.device):
            return tiled_loss(z_u, z_v, teacher.x, teacher.y, PLANS, None, teacher.potentials)

    @torch.no_grad()
    def prepared(self, u: Tensor, v: Tensor) -> Teacher:
        """Compute the teacher's plan of frozen rows."""
        t_x, t_y = self.g_x(u), self.g_y(v)
        with full_precision(u.device):
            potentials = column_potentials(
                t_x, t_y, PLANS.teacher_epsilon, PLANS.iterations, group=None
            )
        return Teacher(t_x, t_y, potentials)


def have_plans(unpaired: Unpaired | None) -> bool:
    """Whether there is more than one way to transport the rows of x to those of y."""
    return unpaired is not None and min(map(len, unpaired)) > 1
