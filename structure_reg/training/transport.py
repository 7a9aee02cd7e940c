"""KLOT of unpaired rows, whose teacher follows the heads."""

from __future__ import annotations

from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from structure_reg.losses.klot import klot_loss
from structure_reg.training.batches import Unpaired
from structure_reg.training.closed_form import Heads

# Found on folds of two sets. The teacher's plan is the sharper one, so that the heads become surer:
# with a fixed teacher, equal ε gained less, and a softer teacher lost.
EPSILON, TEACHER_EPSILON, ITERATIONS = 0.1, 0.05, 20
DECAY = 0.95  # of the teacher's weights, in a step


class Teacher(NamedTuple):
    """The maps that a transport plan comes from."""

    g: Heads
    follows: bool  # whether they begin as the heads, and follow them


class Transport(nn.Module):
    r"""KLOT(f_x(u), f_y(v); g_x(u), g_y(v)) of unpaired rows, without its weight.

    A teacher that follows is a moving average of the heads: Tarvainen & Valpola, "Mean Teachers are
    Better Role Models", NeurIPS 2017. A fixed one holds the heads at their start, which lost where
    training gains over it.
    """

    def __init__(self, teacher: Teacher, weight: float) -> None:
        super().__init__()
        self.g_x, self.g_y = (g.requires_grad_(False) for g in teacher.g)
        self.follows, self.weight = teacher.follows, weight

    def forward(self, u: Tensor, v: Tensor, heads: Heads) -> Tensor:
        """The term of frozen rows of both sides."""
        f_x, f_y = heads
        return klot_loss(
            f_x(u),
            f_y(v),
            self.g_x(u),
            self.g_y(v),
            epsilon=EPSILON,
            teacher_epsilon=TEACHER_EPSILON,
            iterations=ITERATIONS,
        )

    @torch.no_grad()
    def follow(self, heads: Heads) -> None:
        """Move the teacher towards the heads, after a step."""
        if self.follows:
            own = chain(self.g_x.parameters(), self.g_y.parameters())
            for g, f in zip(own, chain(*(head.parameters() for head in heads)), strict=True):
                g.lerp_(f, 1 - DECAY)


def have_plans(unpaired: Unpaired | None) -> bool:
    """Whether there is more than one way to transport the rows of x to those of y."""
    return unpaired is not None and min(map(len, unpaired)) > 1
