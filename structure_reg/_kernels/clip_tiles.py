"""CLIP's two softmaxes over one matrix of logits that is never whole, Z = s X̂ Ŷᵀ.

A pass over tiles of rows finds the row sums, which each tile holds whole, and the column sums,
which run along. A second pass makes Z again and turns it into its gradient tile by tile:

    G_ij = u_i (softmax_j Z_ij - T_ij) + v_j (softmax_i Z_ij - T_ij)

for gradients u of the rows' losses and v of the columns'.

Four products instead of the six of two logit matrices under autograd, and three on the rows of Z
that the tile budget lets the first pass keep for the second. Both passes are operators of their
own, opaque to a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.logits import Logits, LogitsGradient, empty_gradient
from structure_reg._kernels.targets import targets
from structure_reg._precision import full_precision


class Statistics(NamedTuple):
    """What is known of rows and columns of Z. A shift is a constant to the gradient.

    Logarithms stand beside their shift instead of in a sum with it: where all partners are found,
    the loss is no more than the rounding of such a sum.
    """

    row_loss: Tensor  # (n,) log Σ_j exp Z_ij - Σ_j T_ij Z_ij
    column_log: Tensor  # (N,) log Σ_i exp(Z_ij - column_shift_j) over the rows at hand
    column_target: Tensor  # (N,) Σ_i T_ij Z_ij over the rows at hand
    column_shift: Tensor  # (N,) max_i Z_ij
    row_sum: Tensor  # (n,) Σ_j exp(Z_ij - row_shift_i)
    row_shift: Tensor  # (n,) max_j Z_ij
    Z: Tensor  # (keep, N) its first rows


@torch.library.custom_op("structure_reg::clip_statistics", mutates_args=())
def clip_statistics(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,
    first: int,
    label_smoothing: float,
    rows: int,
    keep: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of :class:`Statistics` for x (n, d) at hand against all y (N, d).

    Row `first` of y is the partner of the first row of x; `ids` (N,) belong to y. Computed in the
    dtype of s, a tile of `rows` at a time; `keep` rows, which end with a tile, are kept. The first
    three are differentiable by x, y and s.
    """
    out = Statistics(*_empty(x, y, s, ids, first, label_smoothing, rows, keep))
    out.column_target.zero_()
    out.column_shift.fill_(-torch.inf)
    column_sum = torch.zeros_like(out.column_log)
    T = targets(ids, first, label_smoothing)
    with full_precision(x.device):
        logits = Logits(x, y, s, rows)
        for I, tile, E in logits.tiles():
            Z = logits.product(out.Z[I] if I.stop <= keep else tile)  # (B, N)
            out.row_shift[I] = Z.amax(1)
            out.row_sum[I] = torch.sub(Z, out.row_shift[I, None], out=E).exp_().sum(1)
            shift = torch.maximum(out.column_shift, Z.amax(0))
            column_sum.mul_((out.column_shift - shift).exp_())
            column_sum.add_(torch.sub(Z, shift, out=E).exp_().sum(0))
            out.column_shift.copy_(shift)
            row_target, column_target = T.sums(Z, I.start)
            out.column_target.add_(column_target)
            out.row_loss[I] = out.row_sum[I].log() + (out.row_shift[I] - row_target)
        torch.log(column_sum, out=out.column_log)
    return out


@clip_statistics.register_fake
def _empty(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,  # noqa: ARG001
    first: int,  # noqa: ARG001
    label_smoothing: float,  # noqa: ARG001
    rows: int,  # noqa: ARG001
    keep: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, N = x.shape[0], y.shape[0]
    shapes = (n,), (N,), (N,), (N,), (n,), (n,), (keep, N)
    return Statistics(*map(s.new_empty, shapes))


@torch.library.custom_op("structure_reg::clip_gradient", mutates_args=())
def clip_gradient(
    d_row_loss: Tensor,
    d_column_log: Tensor,
    d_column_target: Tensor,
    column_log: Tensor,
    column_shift: Tensor,
    row_sum: Tensor,
    row_shift: Tensor,
    kept: Tensor,
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,
    first: int,
    label_smoothing: float,
    rows: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by x, y and s; those of x and y where `needs` says so, and empty elsewhere."""
    of_rows = (d_row_loss / row_sum)[:, None]  # (n, 1)
    of_columns = d_column_log * (-column_log).exp()  # (N,)
    T = targets(ids, first, label_smoothing)
    with full_precision(x.device):
        logits = Logits(x, y, s, rows)
        gradient = LogitsGradient(logits, needs)
        for I, G, E in logits.tiles():
            Z = kept[I] if I.stop <= len(kept) else logits.product(E)  # (B, N)
            torch.sub(Z, row_shift[I, None], out=G).exp_().mul_(of_rows[I])
            G.addcmul_(torch.sub(Z, column_shift, out=E).exp_(), of_columns)
            T.add_gradient(G, I.start, -d_row_loss[I], d_column_target)
            gradient.add(I, G)
        return gradient.result(y.dtype)


@clip_gradient.register_fake
def _empty_gradient(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    x, y, s, *_, needs = arguments[8:]
    return empty_gradient(x, y, s, needs)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, s, ids, *ctx.options, _ = inputs
    _, column_log, _, *constants = output
    ctx.mark_non_differentiable(*constants)
    ctx.set_materialize_grads(False)  # or zeros of the shape of Z
    ctx.save_for_backward(column_log, *constants, x, y, s, ids)


def _backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    column_log, _, row_sum, *_ = ctx.saved_tensors
    outputs = (row_sum, column_log, column_log)  # by shape
    grads = tuple(
        torch.zeros_like(output) if grad is None else grad
        for grad, output in zip(grads, outputs, strict=False)
    )
    needs = ctx.needs_input_grad
    d = clip_gradient(*grads, *ctx.saved_tensors, *ctx.options, needs[:2])
    return *(g if need else None for g, need in zip(d, needs, strict=False)), *5 * [None]


def _refuse(ctx: Any, *grads: Tensor) -> None:  # noqa: ARG001
    raise no_second_derivative("clip_loss", "inside a larger tile_budget")


clip_statistics.register_autograd(_backward, setup_context=_save)
clip_gradient.register_autograd(_refuse)
