"""The bandwidth of a radial kernel: the median distance between two different rows."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from structure_reg._gram import squared_distances
from structure_reg._tiles import tile_rows, upper_tiles

DIGIT = 16  # bits of the median that one pass over the distances determines


def median_squared_distance(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 of the pair i < j at the lower median distance; differentiable, 0-d.

    Distances that fit the tile budget are sorted at once. Otherwise the median is determined digit
    by digit: for float32 in two passes over the tiles, each of which synchronises with the host.
    """
    n = x.shape[0]
    with torch.no_grad():
        if tile_rows(4 * x.element_size() * n) >= n:
            pairs = torch.triu_indices(n, n, 1, device=x.device)
            distances = squared_distances(x, x)[pairs[0], pairs[1]]
            middle = distances.kthvalue((distances.numel() + 1) // 2, keepdim=True).indices
            i, j = pairs.index_select(1, middle)  # (1,) each: a 0-d index would synchronise
        else:
            i, j = median_pair(x)
    return (x.index_select(0, i) - x.index_select(0, j)).square().sum()


def median_pair(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows i and j at the median distance, by radix selection.

    Floats of one sign sort like their bits. Counting the leading 16 bits of all distances gives the
    leading 16 bits of the median; counting the next 16 bits of the distances that share them gives
    the next 16.
    """
    n, bits = x.shape[0], 8 * x.element_size()
    rank = torch.tensor((n * (n - 1) // 2 - 1) // 2, device=x.device)
    prefix = torch.zeros_like(rank)
    for shift in range(bits - DIGIT, -1, -DIGIT):
        counts = torch.zeros(2**DIGIT, dtype=torch.int64, device=x.device)
        for _, _, words in distance_words(x):
            candidates = words[(words >> shift >> DIGIT) == prefix]
            counts += torch.bincount((candidates >> shift) % 2**DIGIT, minlength=2**DIGIT)
        cumulative = counts.cumsum(0)
        digit = torch.searchsorted(cumulative, rank, right=True)
        rank = rank - (cumulative[digit] - counts[digit])
        prefix = prefix * 2**DIGIT + digit
    return next(
        (row + a.start, column + b.start)  # (1,) each
        for a, b, words in distance_words(x)
        for row, column in (words == prefix).nonzero()[:1, :, None]
    )


def distance_words(x: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Tiles of the bits of all distances as int64, with -1 on and below the diagonal."""
    side = math.isqrt(tile_rows(8 * 8))  # eight int64 tiles at a time
    integer, unsigned = (
        (torch.int32, 2**31 - 1) if x.element_size() == 4 else (torch.int64, 2**63 - 1)
    )
    for a, b in upper_tiles(x.shape[0], side):
        words = squared_distances(x[a], x[b]).view(integer).long() & unsigned  # NaN may have a sign
        if a == b:
            words = torch.where(torch.ones_like(words, dtype=torch.bool).triu(1), words, -1)
        yield a, b, words
