"""The k nearest rows of every row, found once per layer and used by every kNN metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import unit_rows
from structure_reg._precision import full_precision, promote
from structure_reg._tiles import slices, tile_rows
from structure_reg.similarity._checks import check_neighbours

RULES: dict[str, Callable[[int], int]] = {
    "rice": lambda n: math.ceil(2 * math.cbrt(n)),
    "sqrt": lambda n: math.ceil(math.sqrt(n)),
    "sturges": lambda n: math.ceil(math.log2(n) + 1),
}
# Rows that are normalised at a time: few enough to stay in a cache.
ROWS = 256
# Columns of a product at a time: enough for a product, few enough to stay near the diagonal.
PANEL = 384


class Neighbours(NamedTuple):
    """The neighbourhoods of one layer, all that the kNN metrics read of it."""

    rows: Tensor  # (n, k) int32, nearest first, never the row itself
    cosine: Tensor  # (n, k)
    tied: Tensor  # (n,) bool: the k-th and the next are equally near
    nan: Tensor  # (): 0, or NaN where the layer holds a NaN


def neighbourhood_size(function: str, k: int | str | None, n: int) -> int:
    """Rows in a neighbourhood: `k` itself, or what a rule makes of n; None is Rice's rule."""
    check_neighbours(function, k, RULES)
    size = RULES["rice" if k is None else k](n) if k is None or isinstance(k, str) else int(k)
    check_neighbours(function, size, RULES, n=n)
    return size


@torch.no_grad()
def nearest(x: Tensor, k: int) -> Neighbours:
    """Find the k rows of largest cosine to every row.

    Tiles of the Gram matrix are computed once, above the diagonal, and ranked along both axes.
    """
    with full_precision(x.device):
        v, offset = without_common_direction(x)
        values, rows = map(
            torch.cat, zip(*(merged(tiles, k) for tiles in ranked_tiles(v, offset, k)), strict=True)
        )
        return Neighbours(
            rows[:, :k].int(),
            1 + offset[:, None] + values[:, :k],
            tied_rows(values, offset),
            0 * offset.sum(),
        )


def ranked_tiles(v: Tensor, offset: Tensor, k: int) -> list[list[tuple[Tensor, Tensor]]]:
    """For each block of rows, the best of every tile of columns."""
    n = len(v)
    # Two tiles at a time: one to rank along its rows, its transpose to rank along its columns.
    blocks = math.ceil(n / max(16, math.isqrt(tile_rows(2 * v.element_size()))))
    tile = math.ceil(n / blocks)
    best: list[list[tuple[Tensor, Tensor]]] = [[] for _ in range(0, n, tile)]
    for a, rows in enumerate(slices(n, tile)):
        S = symmetric_product(v[rows])  # (t, t)
        S.add_(offset[rows]).fill_diagonal_(-torch.inf)
        best[a].append(ranked(S, k, rows.start))
        for b, columns in enumerate(slices(n, tile)):
            if b > a:
                S = v[rows] @ v[columns].mT  # (t, t)
                best[b].append(ranked(S.mT.contiguous().add_(offset[rows]), k, rows.start))
                best[a].append(ranked(S.add_(offset[columns]), k, columns.start))
    return best


def without_common_direction(x: Tensor) -> tuple[Tensor, Tensor]:
    r"""Unit rows less a direction they share, v = u - c, and what its removal takes from a cosine.

    Features with a large common mean have cosines that differ in the seventh digit, where float32
    ends. As u_i . u_j = v_i . v_j + o_i + o_j for every c, the rows are ranked by v_i . v_j + o_j,
    whose digits all tell rows apart: o = (1 - |v|²) / 2, less a constant.
    """
    (x,) = promote(x)
    c = directions(x[:: max(1, len(x) // ROWS)]).mean(0)  # (d,)
    v = torch.empty_like(x)
    offset = x.new_empty(len(x))
    for start in range(0, len(x), ROWS):
        rows = slice(start, start + ROWS)
        u = directions(x[rows])
        v[rows] = u - c
        zero = torch.linalg.vector_norm(u, dim=-1) == 0  # without direction: cosine 0 to any other
        squares = torch.linalg.vector_norm(v[rows], dim=-1, dtype=torch.float64).square()
        offset[rows] = -(squares + zero) / 2
    return v, offset


def directions(x: Tensor) -> Tensor:
    """Unit rows in float64, where the squares of float32 neither overflow nor vanish."""
    if x.dtype == torch.float64:
        return unit_rows(x)
    u = x.double()
    length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)  # (n, 1)
    return u / torch.where(length == 0, 1, length)


def symmetric_product(v: Tensor) -> Tensor:
    """Compute V Vᵀ from the products below its diagonal, half of them."""
    n = len(v)
    S = v.new_empty(n, n)
    for start in range(0, n, PANEL):
        stop = start + PANEL
        panel = v[start:] @ v[start:stop].mT  # (n - start, PANEL)
        S[start:, start:stop] = panel
        S[start:stop, stop:] = panel[PANEL:].mT
    return S


def ranked(S: Tensor, k: int, start: int) -> tuple[Tensor, Tensor]:
    """Value and column of the k + 1 largest of each row, one more than asked to see ties."""
    values, columns = S.topk(min(k + 1, S.shape[1]), -1)
    return values, columns + start


def merged(parts: list[tuple[Tensor, Tensor]], k: int) -> tuple[Tensor, Tensor]:
    """Merge what the tiles of a block of rows found: values and columns of the k + 1 best."""
    if len(parts) == 1:
        return parts[0]
    values = torch.cat([values for values, _ in parts], 1)
    columns = torch.cat([columns for _, columns in parts], 1)
    values, order = values.topk(k + 1, -1)
    return values, columns.gather(1, order)  # (t, k + 1)


def tied_rows(values: Tensor, offset: Tensor) -> Tensor:
    """Find the rows whose k-th neighbour is no nearer than the next, up to rounding."""
    # Of the products, which grow with the longest v, and of the unit rows in float64.
    rounding = 16 * torch.finfo(values.dtype).eps * -offset.min()
    rounding = rounding + 64 * torch.finfo(torch.float64).eps ** 2
    return values[:, -2] - values[:, -1] <= rounding
