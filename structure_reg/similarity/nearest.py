"""The k nearest rows to every row: searched once per layer and used by every kNN metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._gram import unit_deviations
from structure_reg._precision import full_precision, promote
from structure_reg._tiles import slices, tile_rows
from structure_reg.similarity._checks import check_k_below_rows, check_k_or_rule
from structure_reg.similarity.lots import Candidates, Ranking, draw_lots

RULES: dict[str, Callable[[int], int]] = {
    "rice": lambda n: least_cube_root(8 * n),
    "sqrt": lambda n: 1 + math.isqrt(n - 1),
    "sturges": lambda n: 1 + (n - 1).bit_length(),
}
# Rows converted to float64 at a time: a copy of the whole layer would exceed the scratch budget.
ROWS = 256
# Columns per product: enough for an efficient product, few enough to waste little above the
# diagonal.
PANEL = 384
# Largest deviation from the shared direction, in units of eps, at which a layer is constant.
CONSTANT = 8


class Neighbours(NamedTuple):
    """The neighbourhoods of one layer: all that the kNN metrics read."""

    rows: Tensor  # (n, k) int32, nearest first, never the row itself
    cosine: Tensor  # (n, k) float64: what distinguishes near rows lies beyond float32
    tied: Tensor  # (n,) bool: the k-th and the next row are equally near
    nan: Tensor  # (): 0, or NaN where the layer contains NaN or is constant
    constant: Tensor  # () bool: all rows share one direction, up to rounding


def least_cube_root(m: int) -> int:
    """Smallest k with k³ >= m, for m > 0: exact at perfect cubes, where rounding is not."""
    k = round(math.cbrt(m))
    return k if k**3 >= m else k + 1


def neighbourhood_size(function: str, k: int | str | None, n: int) -> int:
    """Number of neighbours: `k` itself, or the value of a rule at n; None is Rice's rule."""
    check_k_or_rule(function, k, RULES)
    size = RULES[k or "rice"](n) if k is None or isinstance(k, str) else int(k)
    check_k_below_rows(function, size, n)
    return size


@torch.no_grad()
def nearest(x: Tensor, k: int, side: int = 0) -> Neighbours:
    """Find the k rows with the largest cosine to every row.

    Each tile of the Gram matrix is computed once, above the diagonal, and searched along both axes.
    Ties are broken at random, differently on each `side` of a comparison.
    """
    with full_precision(x.device):
        (x,) = promote(x)
        v = unit_deviations(x)
        squares = square_lengths(v)
        offset = cosine_offsets(x, squares).to(v.dtype)
        best = [merge_candidates(parts, k) for parts in search_tiles(v, offset, k)]
        values, columns = map(torch.cat, zip(*best, strict=True))
        ranking = Ranking(v, offset, tie_rounding(offset))
        tied = values[:, -2] - values[:, -1] <= ranking.rounding
        if not x.is_meta:  # which rows tie depends on values
            values, columns = draw_lots(ranking, (values, columns), side)
        constant = squares.amax() <= (CONSTANT * torch.finfo(v.dtype).eps) ** 2
        return Neighbours(
            columns[:, :k].int(),
            1 + (offset[:, None].double() + values[:, :k]),
            tied,
            (0 * offset.sum()).masked_fill(constant, math.nan),
            constant,
        )


def square_lengths(v: Tensor) -> Tensor:
    """|v_i|² in float64."""
    return torch.cat(
        [
            torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float64) ** 2
            for rows in torch.split(v, ROWS)
        ]
    )


def cosine_offsets(x: Tensor, squares: Tensor) -> Tensor:
    r"""Offsets o for which the cosine of rows i and j is 1 + o_i + o_j + v_i . v_j.

    With v = u - c they are -|v|² / 2 for unit rows u and any c. Row i thus ranks the others by
    v_i . v_j + o_j.
    """
    zero = ~x.any(-1)  # a zero row has no direction: its cosine to every other row is 0
    return -(squares + zero) / 2  # (n,)


def search_tiles(v: Tensor, offset: Tensor, k: int) -> list[list[Candidates]]:
    """The candidates of every block of rows, one pair of tensors per tile of columns."""
    n = len(v)
    # Two tiles at a time: one to search along its rows, its transpose to search along its columns.
    blocks = math.ceil(n / max(16, math.isqrt(tile_rows(2 * v.element_size()))))
    tile = math.ceil(n / blocks)
    candidates: list[list[Candidates]] = [[] for _ in range(0, n, tile)]
    for a, rows in enumerate(slices(n, tile)):
        S = gram_from_lower_half(v[rows])  # (t, t)
        S.add_(offset[rows]).fill_diagonal_(-torch.inf)
        candidates[a].append(largest_entries(S, k, rows.start))
        for b, columns in enumerate(slices(n, tile)):
            if b > a:
                S = v[rows] @ v[columns].mT  # (t, t)
                by_column = S.mT.contiguous().add_(offset[rows])
                candidates[b].append(largest_entries(by_column, k, rows.start))
                candidates[a].append(largest_entries(S.add_(offset[columns]), k, columns.start))
    return candidates


def gram_from_lower_half(v: Tensor) -> Tensor:
    """V Vᵀ from the products on and below its diagonal: half the multiplications."""
    n = len(v)
    S = v.new_empty(n, n)
    for start in range(0, n, PANEL):
        stop = start + PANEL
        panel = v[start:] @ v[start:stop].mT  # (n - start, PANEL)
        S[start:, start:stop] = panel
        S[start:stop, stop:] = panel[PANEL:].mT
    return S


def largest_entries(S: Tensor, k: int, first_column: int) -> Candidates:
    """The k + 1 largest entries of each row; the one beyond k reveals ties."""
    values, columns = S.topk(min(k + 1, S.shape[1]), -1)
    return values, columns + first_column


def merge_candidates(parts: list[Candidates], k: int) -> Candidates:
    """The k + 1 largest entries of each row, from those of every tile."""
    if len(parts) == 1:
        return parts[0]
    values = torch.cat([values for values, _ in parts], 1)
    columns = torch.cat([columns for _, columns in parts], 1)
    values, order = values.topk(k + 1, -1)
    return values, columns.gather(1, order)  # (t, k + 1)


def tie_rounding(offset: Tensor) -> Tensor:
    """Largest difference of two values that counts as a tie."""
    # The products round with the square of the longest v, the unit rows with float64.
    rounding = 16 * torch.finfo(offset.dtype).eps * -offset.min()
    return rounding + 64 * torch.finfo(torch.float64).eps ** 2
