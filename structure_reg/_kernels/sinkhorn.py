"""Sinkhorn's iteration with uniform marginals, over tiles of rows of Z = X̂ Ŷᵀ / ε.

    u_i = -log n - log Σ_j exp(Z_ij + v_j),    v_j = -log m - log Σ_i exp(Z_ij + u_i)

A tile holds whole rows, so it yields both half-steps at once: a softmax over the rows of Z + v is
n exp(Z + u + v), and the logarithms of its column sums c update v by log(n / m) - log c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from structure_reg._distributed import gather_rows, processes
from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision
from structure_reg._tiles import slices, tile_rows

# Elementwise passes over taller tiles leave a CPU's cache.
PLAN_ROWS = 256


def exponent_floor(dtype: torch.dtype) -> float:
    """A bound on exponents, far below rounding and far above the subnormal numbers.

    Subnormal numbers slow a CPU down by a factor of ten.
    """
    return 0.7 * math.log(torch.finfo(dtype).tiny)


def column_potentials(x: Tensor, y: Tensor, epsilon: float, iterations: int, group: Any) -> Tensor:
    """v before and after the last of the iterations, (2, m), from v = 0; without autograd.

    x (n, d) are this process's rows, y (m, d) those of all processes.
    """
    with torch.no_grad():
        X, Y = unit_rows(x) / epsilon, unit_rows(y)
        height, kept = tiling_of(len(X), len(Y) * Y.itemsize)
        Z = X[:kept] @ Y.mT  # (kept, m)
        n = len(X) * processes(group)
        steps = iterations if group is None else 1
        potentials = over_processes(sinkhorn(X, Y, Z, None, n, steps, height), group)
        for _ in range(iterations - steps):
            own = sinkhorn(X, Y, Z, potentials[1], n, 1, height)
            potentials = over_processes(own, group)
        return potentials


def over_processes(potentials: Tensor, group: Any) -> Tensor:
    """v of the rows of all processes from that of each process's own, whose sums add up."""
    if group is None:
        return potentials
    before, v = potentials
    return torch.stack([before, -gather_rows(-v[None], group).logsumexp(0)])


def tiling_of(n: int, row_bytes: int) -> tuple[int, int]:
    """Rows of a tile, four of which exist at one time, and rows of Z kept in the budget's rest."""
    height = min(n, PLAN_ROWS, tile_rows(4 * row_bytes))
    spare = max(0, tile_rows(row_bytes) - 4 * height)
    return height, n if spare >= n else spare // height * height


@torch.library.custom_op("structure_reg::sinkhorn", mutates_args=())
def sinkhorn(
    X: Tensor, Y: Tensor, Z: Tensor, v: Tensor | None, n: int, iterations: int, height: int
) -> Tensor:
    """v before and after the last of the iterations, (2, m); the sums run over the rows of X.

    X are the unit rows over ε, and Z (kept, m) the first rows of X Yᵀ. n counts the rows of all
    processes. Without v, the iteration starts at zero.
    """
    m = len(Y)
    start = v is None
    before = v = Y.new_zeros(m) if v is None else v
    with full_precision(Y.device):
        for i in range(iterations):
            log_c = Y.new_full((m,), -torch.inf)
            for S in shifted_tiles(X, Y, Z, v, height):
                # A column that is far from all rows at v = 0 underflows. Later its plan has had the
                # sum 1/m, so its softmax sums to at least 1/m, and a single exponential suffices.
                own = exact_log_sums(S) if start and i == 0 else log_sums(S)
                log_c = torch.logaddexp(log_c, own)
            before, v = v, v + math.log(n / m) - log_c
    return torch.stack([before, v])


@sinkhorn.register_fake
def _(X: Tensor, Y: Tensor, *_: Any) -> Tensor:  # noqa: ARG001
    return Y.new_empty(2, Y.shape[0])


def shifted_tiles(X: Tensor, Y: Tensor, Z: Tensor, v: Tensor, height: int) -> Iterator[Tensor]:
    """Z_I + v, (B, m), tile by tile; each is valid until the next."""
    buffer = Y.new_empty(min(height, len(X)), len(Y))
    for I in slices(len(X), height):
        S = buffer[: I.stop - I.start]
        if I.stop <= len(Z):
            yield torch.add(Z[I], v, out=S)
        else:
            yield torch.mm(X[I], Y.mT, out=S).add_(v)


def exact_log_sums(S: Tensor) -> Tensor:
    return S.log_softmax(1).logsumexp(0)  # (m,)


def log_sums(S: Tensor) -> Tensor:
    """log of the column sums of the softmax over rows, in the memory of S."""
    floor = exponent_floor(S.dtype)
    E = S.sub_(S.amax(1, keepdim=True)).clamp_(min=floor).exp_()  # (B, m)
    return (E.sum(1).reciprocal() @ E).log()  # (m,)
