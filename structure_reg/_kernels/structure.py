"""The hand-written STRUCTURE term as one opaque operator, for autograd and torch.compile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from structure_reg._kernels._checks import no_second_derivative
from structure_reg._kernels.frozen import Frozen, FrozenWalks
from structure_reg._kernels.neighbours import neighbour_rows
from structure_reg._kernels.options import WalkOptions
from structure_reg._kernels.powers import power_rows
from structure_reg._kernels.symmetric import exponents_fit
from structure_reg._kernels.triangle import triangle_rows, triangles_fit
from structure_reg._kernels.walks import walk_rows


def structure_rows(
    frozen: Frozen, A: Tensor, rows: slice, options: WalkOptions, *, uniform: bool
) -> Tensor:
    """R_i for i in rows, differentiable once by A.

    `uniform` promises that the backward pass weights all rows alike, as a mean or a sum does. The
    gradient is then computed along with the rows, while the tiles are in memory, and only its
    (n, d) numbers are kept. Otherwise the backward pass runs the operator again, with the weights
    that it is given.
    """
    gradient = uniform and A.requires_grad and torch.is_grad_enabled()
    bounds = [rows.start, rows.stop]
    R: Tensor = structure_operator(pack(frozen), A, None, bounds, *options, gradient)[0]
    return R


def pack(frozen: Frozen) -> list[Tensor]:
    """The frozen side as a list, because operators take no records."""
    return [frozen.y, *frozen.powers] if isinstance(frozen, FrozenWalks) else [frozen]


def unpack(tensors: Sequence[Tensor]) -> Frozen:
    first, *powers = tensors
    return FrozenWalks(first, powers) if powers else first


@torch.library.custom_op("structure_reg::structure_rows", mutates_args=())
def structure_operator(
    frozen: Sequence[Tensor],
    A: Tensor,
    weights: Tensor | None,
    bounds: Sequence[int],
    temperature: float,
    levels: int,
    divergence: str,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    """R_i for the rows within `bounds`, and the gradient of their weighted sum by A.

    The weights are 1 unless given. The gradient is empty unless asked for.
    """
    rows, options = range(*bounds), WalkOptions(temperature, levels, divergence)
    if weights is None:
        weights = A.new_ones(len(rows))
    D, dA = unscaled_rows(unpack(frozen), A, rows, options, weights / levels, gradient)
    return D / levels, A.new_empty(0) if dA is None else dA


def unscaled_rows(
    frozen: Frozen, A: Tensor, rows: range, options: WalkOptions, weights: Tensor, gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """L R_i and the gradient, from the fastest kernel that applies."""
    symmetric = len(rows) == len(A) and exponents_fit(A.dtype, options.temperature)
    if options.levels > 1 and symmetric:
        return power_rows(frozen, A, options, weights, gradient)
    if options.levels > 1:
        return walk_rows(frozen, A, rows, options, weights, gradient)
    if symmetric and triangles_fit(A, options.divergence):
        return triangle_rows(frozen, A, options, weights, gradient)
    return neighbour_rows(frozen, A, rows, options, weights, gradient)


@structure_operator.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor]:
    _, A, _, (start, stop), *_, gradient = arguments
    return A.new_empty(stop - start), A.new_empty(A.shape if gradient else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    frozen, A, _, *ctx.options, ctx.has_gradient = inputs
    ctx.frozen_gradient = [None] * len(frozen)
    ctx.save_for_backward(*((output[1],) if ctx.has_gradient else (A, *frozen)))
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_rows: Tensor | None, d_dA: Tensor | None) -> tuple[Any, ...]:
    if d_dA is not None:
        raise no_second_derivative("structure_loss", "inside torch.func")
    if d_rows is None:
        dA = None
    elif ctx.has_gradient:
        (dA,) = ctx.saved_tensors
        dA = dA * d_rows[0]
    else:
        A, *frozen = ctx.saved_tensors
        _, dA = structure_operator(frozen, A, d_rows, *ctx.options, True)
    return ctx.frozen_gradient, dA, *(None,) * 6


structure_operator.register_autograd(_backward, setup_context=_save)
