"""SigLIP's pairs, judged in one pass over tiles of the logits Z = s X̂ Ŷᵀ + b.

No pair depends on another, so one tile gives both value and gradient:

    ℓ_i = Σ_j log(1 + exp V_ij),   G_ij = -t_ij u_i σ(V_ij),   V_ij = -t_ij Z_ij

for gradients u of the rows' losses. Under a mean or a sum, u is one number, so the forward pass
computes the gradient and the backward pass only scales it: three products. Until it is scaled, the
gradient stays in float32, because factors such as those of a gradient scaler bring it into the
range of half precision. If the losses are kept per row, u is known in the backward pass only, which
recomputes Z: four products.
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
    """V_ij *= -t_ij on tile I; the partner of its first row is column `first` + I.start."""
    if ids is None:
        V.diagonal(first + I.start).neg_()
    else:
        same = ids[first + I.start : first + I.stop, None] == ids  # (B, N)
        V.mul_(same.to(V.dtype).mul_(-2).add_(1))


@torch.library.custom_op("structure_reg::siglip_rows", mutates_args=())
def siglip_rows(
    x: Tensor, y: Tensor, scale_and_bias: Tensor, ids: Tensor | None, tiling: Sequence[int]
) -> Tensor:
    """ℓ (n,) of this process's x (n, d) against all y (N, d), differentiable by x, y, s and b.

    `ids` (N,) belong to y. Everything is computed in the dtype of s and b, (2,).
    """
    s, b = scale_and_bias
    first, height, _ = tiling
    loss = scale_and_bias.new_empty(len(x))
    zero = torch.zeros_like(s)
    with full_precision(x.device):
        logits = Logits(x, y, s, height)
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
    scale_and_bias: Tensor,
    ids: Tensor | None,
    tiling: Sequence[int],
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Σ_i u_i ℓ_i, and its gradient by x, y and (s, b).

    The gradient is in the dtype of s and b; by x and y it is empty where `needs` does not ask for
    it. Only the sum is differentiable.
    """
    s, b = scale_and_bias
    first, height, _ = tiling
    zero = torch.zeros_like(s)
    total, d_b = torch.zeros_like(s), torch.zeros_like(s)
    with full_precision(x.device):
        logits = Logits(x, y, s, height)
        gradient = LogitsGradient(logits, needs)
        for I, V, E in logits.tiles():
            logits.product(V).add_(b)
            negate_positives(V, ids, first, I)
            total += torch.logaddexp(V, zero, out=E).sum(1).dot(u[I])
            G = torch.sigmoid(V, out=E).mul_(u[I, None])  # (B, N)
            negate_positives(G, ids, first, I)
            d_b += G.sum(1).sum()
            gradient.add(I, G)
        d_x, d_y, d_s = gradient.result()
        return total, d_x, d_y, torch.stack([d_s, d_b])


@siglip_rows.register_fake
def _(x: Tensor, y: Tensor, scale_and_bias: Tensor, *_: Any) -> Tensor:  # noqa: ARG001
    return scale_and_bias.new_empty(x.shape[0])


@siglip_sum.register_fake
def _(
    u: Tensor,  # noqa: ARG001
    x: Tensor,
    y: Tensor,
    scale_and_bias: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    total, d_scalars = scale_and_bias.new_empty(()), torch.empty_like(scale_and_bias)
    return total, *empty_gradient(x, y, scale_and_bias, rest[-1]), d_scalars


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001
    *tensors, ctx.tiling = inputs
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, u: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad
    _, *d = siglip_sum(u, *ctx.saved_tensors, ctx.tiling, needs[:2])
    inputs = zip(d, ctx.saved_tensors, needs, strict=False)
    return *(g.to(t.dtype) if need else None for g, t, need in inputs), None, None


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.dtypes = [t.dtype for t in inputs[1:4]]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _sum_backward(ctx: Any, grad: Tensor | None, *second: Tensor | None) -> tuple[Any, ...]:
    if any(g is not None for g in second):
        raise no_second_derivative("siglip_loss", "inside a larger tile_budget")
    if grad is None:
        return 7 * (None,)
    saved = zip(ctx.saved_tensors, ctx.dtypes, ctx.needs_input_grad[1:4], strict=True)
    d = ((grad * g).to(dtype) if need else None for g, dtype, need in saved)
    return None, *d, None, None, None


siglip_rows.register_autograd(_rows_backward, setup_context=_save_inputs)
siglip_sum.register_autograd(_sum_backward, setup_context=_save_gradient)
