"""The hand-written STRUCTURE term as one opaque operator: what autograd and torch.compile see."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.neighbours import neighbour_rows
from structure_reg._kernels.powers import power_rows
from structure_reg._kernels.symmetric import exponents_fit
from structure_reg._kernels.triangle import triangle_rows, triangles_fit
from structure_reg._kernels.walks import walk_rows


@torch.library.custom_op("structure_reg::structure_rows", mutates_args=())
def structure_rows(
    P: list[Tensor],
    A: Tensor,
    first: int,
    count: int,
    temperature: float,
    levels: int,
    divergence: str,
    weights: Tensor | None,
    uniform: bool,  # noqa: ARG001 - for the backward pass
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """`count` rows of the term from row `first` on, and the gradient by A of their weighted sum.

    P is [X], centred unit rows, or what :func:`frozen_walks` made of them.

    The gradient is made with the rows, where the tiles are at hand, so that only (n, d) is kept for
    the backward pass; it is empty unless asked for. `uniform` promises that every row will be
    weighted alike in the backward pass, as by a mean or a sum: otherwise the backward pass runs the
    operator again with the weights that it is given.
    """
    if weights is None:
        weights = A.new_ones(count)
    rows = range(first, first + count)
    tail = (divergence, weights / levels, gradient)
    symmetric = len(rows) == len(A) and exponents_fit(A.dtype, temperature)
    if levels > 1 and symmetric:
        D, dA = power_rows(P, A, temperature, levels, *tail)
    elif levels > 1:
        D, dA = walk_rows(P, A, rows, temperature, levels, *tail)
    elif symmetric and triangles_fit(A, divergence):
        D, dA = triangle_rows(P, A, temperature, *tail)
    else:
        D, dA = neighbour_rows(P, A, rows, temperature, *tail)
    return D / levels, A.new_empty(0) if dA is None else dA


@structure_rows.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    _, A, _, count, *_, gradient = arguments
    return A.new_empty(count), A.new_empty(A.shape if gradient else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    P, A, *ctx.options, _, ctx.uniform, _ = inputs
    ctx.none_of_P = [None] * len(P)
    ctx.save_for_backward(*((output[1],) if ctx.uniform else (A, *P)))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_rows: Tensor | None, d_dA: Tensor | None) -> tuple[Any, ...]:
    if d_dA is not None:
        raise no_second_derivative("structure_loss", "inside torch.func")
    if d_rows is None:
        dA = None
    elif ctx.uniform:
        (dA,) = ctx.saved_tensors
        dA = dA * d_rows[0]
    else:
        A, *P = ctx.saved_tensors
        _, dA = structure_rows(P, A, *ctx.options, d_rows, False, True)
    return ctx.none_of_P, dA, *(None,) * 8


structure_rows.register_autograd(_backward, setup_context=_save)
