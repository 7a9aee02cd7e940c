"""KL(P* ‖ P) of two entropic plans and its gradient, in one pass over tiles of rows.

With the potentials of the columns known, a tile of whole rows yields its own potentials of the
rows, and so its part of both plans, of the value and of the gradient:

    log P_ij = Z_ij + u_i + v_j,    L = Σ_ij P*_ij r_ij + P_ij - P*_ij,    r = log P* - log P
    ∂L / ∂Z = P - P* = P* (e⁻ʳ - 1)

The last form keeps its digits where the plans are close.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.logits import Logits, LogitsGradient, empty_gradient
from structure_reg._kernels.sinkhorn import exponent_floor
from structure_reg._precision import full_precision


@torch.library.custom_op("structure_reg::klot_sum", mutates_args=())
def klot_sum(
    x: Tensor,
    y: Tensor,
    teacher: Sequence[Tensor],
    potentials: Tensor,
    scales: Tensor,
    n: int,
    height: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum over this process's rows of x (n', d), and its gradient by x and y (m, d).

    `teacher` are the same rows under the teacher, `potentials` (2, 2, m) the last two v of the
    student and of the teacher, `scales` (2,) their 1/ε. n counts the rows of all processes. The
    gradient is empty where `needs` does not ask for it. Only the sum is differentiable.
    """
    total = torch.zeros_like(scales[0])
    floor = exponent_floor(scales.dtype)
    with full_precision(x.device):
        ours = Logits(x, y, scales[0], height)
        theirs = Logits(teacher[0], teacher[1], scales[1], height)
        gradient = LogitsGradient(ours, needs)
        for (I, P, E), (_, Q, F) in zip(ours.tiles(), theirs.tiles(), strict=True):
            log_P = log_plan(ours.product(P), potentials[0], n, E)  # (B, m)
            log_Q = log_plan(theirs.product(Q), potentials[1], n, F).clamp_(min=floor)
            r = torch.sub(log_Q, log_P, out=E)
            Q = torch.exp(log_Q, out=F)
            G = torch.expm1(-r, out=P).mul_(Q)
            total += r.mul_(Q).add_(G).sum()
            if any(needs):
                gradient.add(I, G)
        d_x, d_y, _ = gradient.result()
        return total, d_x, d_y


def log_plan(Z: Tensor, potentials: Tensor, n: int, scratch: Tensor) -> Tensor:
    """Z + u + v in the memory of Z, with u the mean of the last two half-steps' u."""
    log_sums = [torch.add(Z, v, out=scratch).logsumexp(1) for v in potentials]
    u = -math.log(n) - (log_sums[0] + log_sums[1]) / 2  # (B,)
    return Z.add_(potentials[1]).add_(u[:, None])


@klot_sum.register_fake
def _(x: Tensor, y: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    scales, needs = rest[2], rest[-1]
    return scales.new_empty(()), *empty_gradient(x, y, scales, needs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.no_teacher_gradient = [None] * len(inputs[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _backward(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> tuple[Any, ...]:
    if any(g is not None for g in second):
        raise no_second_derivative("klot_loss", "inside torch.func")
    d = (
        grad * g if need and grad is not None else None
        for g, need in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], strict=True)
    )
    return *d, ctx.no_teacher_gradient, *(None,) * 5


klot_sum.register_autograd(_backward, setup_context=_save)
