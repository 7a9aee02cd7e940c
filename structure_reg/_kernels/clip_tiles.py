"""CLIP's two softmaxes over the logits Z = s X̂ Ŷᵀ, which are never stored as a whole.

A first pass over tiles of rows finds the row sums, whose rows each tile holds completely, and
accumulates the column sums. A second pass recomputes Z and turns it into its gradient by tiles:

    G_ij = u_i (softmax_j Z_ij - T_ij) + v_j (softmax_i Z_ij - T_ij)

for gradients u of the rows' losses and v of the columns'.

This takes four products, where two logit matrices under autograd take six, and only three on the
rows of Z that the tile budget allows the first pass to keep. Each pass is an operator, opaque to a
compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.logits import Logits, LogitsGradient, empty_gradient, exp_below
from structure_reg._kernels.targets import targets
from structure_reg._precision import full_precision


class Statistics(NamedTuple):
    """Statistics of the rows and columns of Z. The first two fields are differentiable.

    Logarithms are returned next to their shift and not in a sum with it: when all partners are
    found, the loss is as small as the rounding of that sum.
    """

    row_loss: Tensor  # (n,) log Σ_j exp Z_ij - Σ_j T_ij Z_ij
    columns: Tensor  # (2, N) log Σ_i exp(Z_ij - column_shift_j), Σ_i T_ij Z_ij, i over the n rows
    column_shift: Tensor  # (N,) max_i Z_ij
    row_softmax: Tensor  # (2, n) Σ_j exp(Z_ij - row_shift_i), row_shift_i = max_j Z_ij
    Z: Tensor  # (kept, N) the first rows of Z


@torch.library.custom_op("structure_reg::clip_statistics", mutates_args=())
def clip_statistics(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,
    label_smoothing: float,
    tiling: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of :class:`Statistics` for this process's x (n, d) against all y (N, d).

    `ids` (N,) belong to y. Everything is computed in the dtype of s.
    """
    out = Statistics(*_empty(x, y, s, ids, label_smoothing, tiling))
    first, height, kept = tiling
    T = targets(ids, first, label_smoothing)
    (row_sum, row_shift), (column_log, column_target) = out.row_softmax, out.columns
    column_target.zero_()
    column_sum = torch.zeros_like(column_log)
    out.column_shift.fill_(-torch.inf)
    with full_precision(x.device):
        logits = Logits(x, y, s, height)
        for I, tile, E in logits.tiles():
            Z = logits.product(out.Z[I] if I.stop <= kept else tile)  # (B, N)
            row_shift[I] = Z.amax(1)
            row_sum[I] = exp_below(Z, row_shift[I, None], out=E).sum(1)
            shift = torch.maximum(out.column_shift, Z.amax(0))
            column_sum.mul_((out.column_shift - shift).exp_())
            column_sum.add_(exp_below(Z, shift, out=E).sum(0))
            out.column_shift.copy_(shift)
            row_target, tile_target = T.sums(Z, I.start)
            column_target.add_(tile_target)
            out.row_loss[I] = row_sum[I].log() + (row_shift[I] - row_target)
        torch.log(column_sum, out=column_log)
    return out


@clip_statistics.register_fake
def _empty(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,  # noqa: ARG001
    label_smoothing: float,  # noqa: ARG001
    tiling: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    n, N = x.shape[0], y.shape[0]
    _, _, kept = tiling
    return Statistics(*map(s.new_empty, ((n,), (2, N), (N,), (2, n), (kept, N))))


class GradientTerms(NamedTuple):
    """What turns Z into its gradient, for each row i and column j.

    G_ij = row_factor_i exp(Z_ij - row_shift_i) + column_factor_j exp(Z_ij - column_shift_j)
           - T_ij (u_i + v_j)
    """

    rows: Tensor  # (3, n) u, row_factor, row_shift
    columns: Tensor  # (3, N) v, column_factor, column_shift
    Z: Tensor  # (kept, N) the first rows of Z


@torch.library.custom_op("structure_reg::clip_gradient", mutates_args=())
def clip_gradient(
    x: Tensor,
    y: Tensor,
    s: Tensor,
    ids: Tensor | None,
    label_smoothing: float,
    tiling: Sequence[int],
    terms: Sequence[Tensor],
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by x, y and s; that of x and y is empty where `needs` does not ask for it."""
    rows, columns, first_Z = GradientTerms(*terms)
    (u, row_factor, row_shift), (v, column_factor, column_shift) = rows, columns
    first, height, _ = tiling
    T = targets(ids, first, label_smoothing)
    with full_precision(x.device):
        logits = Logits(x, y, s, height)
        gradient = LogitsGradient(logits, needs)
        for I, G, E in logits.tiles():
            Z = first_Z[I] if I.stop <= len(first_Z) else logits.product(E)  # (B, N)
            exp_below(Z, row_shift[I, None], out=G).mul_(row_factor[I, None])
            G.addcmul_(exp_below(Z, column_shift, out=E), column_factor)
            T.add_gradient(G, I.start, -u[I], -v)
            gradient.add(I, G)
        d_x, d_y, d_s = gradient.result()
        return d_x.to(x.dtype), d_y.to(y.dtype), d_s


@clip_gradient.register_fake
def _empty_gradient(x: Tensor, y: Tensor, s: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    d_x, d_y = empty_gradient(x, y, s, rest[-1])
    return d_x.to(x.dtype), d_y.to(y.dtype), torch.empty_like(s)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.label_smoothing, ctx.tiling = inputs
    _, columns, *constants = output
    ctx.mark_non_differentiable(*constants)
    ctx.set_materialize_grads(False)  # or zeros of the shape of Z
    ctx.save_for_backward(columns, *constants, *tensors)


def _backward(
    ctx: Any, d_row_loss: Tensor | None, d_columns: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    columns, column_shift, (row_sum, row_shift), Z, *tensors = ctx.saved_tensors
    u = torch.zeros_like(row_sum) if d_row_loss is None else d_row_loss
    d_log, d_target = torch.zeros_like(columns) if d_columns is None else d_columns
    terms = GradientTerms(
        rows=torch.stack([u, u / row_sum, row_shift]),
        columns=torch.stack([-d_target, d_log * (-columns[0]).exp(), column_shift]),
        Z=Z,
    )
    needs = ctx.needs_input_grad
    d = clip_gradient(*tensors, ctx.label_smoothing, ctx.tiling, list(terms), needs[:2])
    return *(g if need else None for g, need in zip(d, needs, strict=False)), None, None, None


def _refuse(ctx: Any, *grads: Tensor) -> None:  # noqa: ARG001
    raise no_second_derivative("clip_loss", "inside a larger tile_budget")


clip_statistics.register_autograd(_backward, setup_context=_save)
clip_gradient.register_autograd(_refuse)
