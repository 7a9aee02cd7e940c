"""SigLIP's pairs, judged in one pass over tiles of the logits Z = s X̂ Ŷᵀ + b.

No pair waits for another, so value and gradient come out of the same tile:

    ℓ_i = Σ_j log(1 + exp V_ij),   G_ij = -t_ij u_i σ(V_ij),   V_ij = -t_ij Z_ij

for gradients u of the rows' losses. Under a mean or a sum u is one number, so the gradient is made
in the forward pass, and only scaled afterwards: three products. Losses kept per row have u only in
the backward pass, which makes Z again: four.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.logits import Logits, LogitsGradient, empty_gradient
from structure_reg._precision import full_precision


def negate_positives(V: Tensor, ids: Tensor | None, first: int, I: slice) -> None:
    """V_ij *= -t_ij on tile I, whose first row's partner is column `first` + I.start."""
    if ids is None:
        V.diagonal(first + I.start).neg_()
    else:
        same = ids[first + I.start : first + I.stop, None] == ids  # (B, N)
        V.mul_(same.to(V.dtype).mul_(-2).add_(1))


@torch.library.custom_op("structure_reg::siglip_rows", mutates_args=())
def siglip_rows(
    x: Tensor, y: Tensor, s: Tensor, b: Tensor, ids: Tensor | None, first: int, rows: int
) -> Tensor:
    """ℓ (n,) of x (n, d) at hand against all y (N, d), differentiable by x, y, s and b.

    Row `first` of y is the partner of the first row of x; `ids` (N,) belong to y. Computed in the
    dtype of s, a tile of `rows` at a time.
    """
    loss = s.new_empty(len(x))
    zero = torch.zeros_like(s)
    with full_precision(x.device):
        logits = Logits(x, y, s, rows)
        for I, V, E in logits.tiles():
            logits.product(V).add_(b)
            negate_positives(V, ids, first, I)
            loss[I] = torch.logaddexp(V, zero, out=E).sum(1)
    return loss


@torch.library.custom_op("structure_reg::siglip_sum", mutates_args=())
def siglip_sum(
    u: Tensor,
    x: Tensor,
    y: Tensor,
    s: Tensor,
    b: Tensor,
    ids: Tensor | None,
    first: int,
    rows: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Σ_i u_i ℓ_i, and its gradient by x, y, s and b: empty for x and y if `needs` does not ask.

    The sum alone is differentiable.
    """
    zero = torch.zeros_like(s)
    total, d_b = torch.zeros_like(s), torch.zeros_like(s)
    with full_precision(x.device):
        logits = Logits(x, y, s, rows)
        gradient = LogitsGradient(logits, needs)
        for I, V, E in logits.tiles():
            logits.product(V).add_(b)
            negate_positives(V, ids, first, I)
            total += torch.logaddexp(V, zero, out=E).sum(1).dot(u[I])
            G = torch.sigmoid(V, out=E).mul_(u[I, None])  # (B, N)
            negate_positives(G, ids, first, I)
            d_b += G.sum(1).sum()
            gradient.add(I, G)
        return total, *gradient.result(y.dtype), d_b


@siglip_rows.register_fake
def _(x: Tensor, y: Tensor, s: Tensor, *rest: Any) -> Tensor:  # noqa: ARG001
    return s.new_empty(x.shape[0])


@siglip_sum.register_fake
def _(u: Tensor, x: Tensor, y: Tensor, s: Tensor, *rest: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
    return torch.empty_like(s), *empty_gradient(x, y, s, rest[-1]), torch.empty_like(s)


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.first, ctx.rows = inputs
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    _, *d = siglip_sum(u, *ctx.saved_tensors, ctx.first, ctx.rows, needs[:2])
    return *(g if need else None for g, need in zip(d, needs, strict=False)), None, None, None


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG001
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _sum_backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    grad, *second = grads
    if any(g is not None for g in second):
        raise no_second_derivative("siglip_loss", "inside a larger tile_budget")
    if grad is None:
        return 9 * (None,)
    needs = ctx.needs_input_grad[1:5]
    d = (grad * g if need else None for g, need in zip(ctx.saved_tensors, needs, strict=True))
    return None, *d, *4 * [None]


siglip_rows.register_autograd(_rows_backward, setup_context=_save_inputs)
siglip_sum.register_autograd(_sum_backward, setup_context=_save_gradient)
