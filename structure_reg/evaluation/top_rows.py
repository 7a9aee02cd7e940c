"""The k gallery rows with the largest scores for each query, exactly, in tiles of both."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from structure_reg._arrays import as_tensor
from structure_reg._gram import double_unit_rows
from structure_reg._precision import full_precision
from structure_reg._tiles import slices, tile_rows

# Parts of the tile budget: a block of the gallery, its scores, and those computed again.
PARTS = 3
PAIRS = 256  # few enough for their rows in float64 to stay in a cache
# Float32 products with rows of other lengths could overflow or vanish.
SHORTEST, LONGEST = 1e-15, 1e15


class TopRows(NamedTuple):
    """The best rows so far of each query, in decreasing order of score, then by index."""

    scores: Tensor  # (b, k) float64
    indices: Tensor  # (b, k)


class Block(NamedTuple):
    """Some rows of the gallery."""

    first: int  # index of the first one
    g: Tensor  # (m, d) as they are in float32, or unit rows in float64
    length: Tensor  # (m,) float64, 1 for a zero row
    offset: Tensor  # (m,) float64


def top_rows(queries: Tensor, gallery: Any, k: int, offset: Tensor, dtype: torch.dtype) -> TopRows:
    """The k largest scores cos(q_i, g_j) + o_j of each query, and their j.

    Matrix products in `dtype` find the few rows of a block that can be among the k best. Their
    scores are then computed one by one in float64, so that equal rows have equal scores wherever
    they are, and results do not depend on the tiles.
    """
    n, d = gallery.shape
    top = TopRows(
        queries.new_full((len(queries), k), -torch.inf, dtype=torch.float64),
        queries.new_full((len(queries), k), n, dtype=torch.int64),
    )
    block_rows = tile_rows(PARTS * 24 * d)
    query_rows = tile_rows(PARTS * 24 * min(block_rows, n))
    with full_precision(queries.device):
        for rows in slices(n, block_rows):
            g = read_rows(gallery, rows, queries.device).to(dtype)
            block = gallery_block(rows.start, g, offset[rows])
            for some in slices(len(queries), query_rows):
                improve(TopRows(*(best[some] for best in top)), queries[some], block)
    return top


def as_rows(function: str, name: str, x: Any) -> Any:
    """A tensor, or an array of NumPy's kind, in memory or in a file, which is read in blocks."""
    dtype = getattr(x, "dtype", None)
    in_blocks = isinstance(dtype, np.dtype) and dtype.kind != "O" and len(x.shape) == 2
    return x if in_blocks else as_tensor(function, name, x)


def read_rows(gallery: Any, rows: slice, device: torch.device) -> Tensor:
    """Rows of a tensor, or of an array that may lie in a file."""
    return as_tensor("search", "gallery", gallery[rows]).to(device)


def gallery_block(first: int, g: Tensor, offset: Tensor) -> Block:
    if g.dtype == torch.float64:
        g = double_unit_rows(g)
    length = torch.linalg.vector_norm(g, dim=-1, dtype=torch.float64)  # (m,)
    return Block(first, g, torch.where(length == 0, 1, length), offset)


def improve(top: TopRows, queries: Tensor, block: Block) -> None:
    """Replace rows of `top`, in place, by rows of the block that score higher."""
    q = double_unit_rows(queries)  # (b, d)
    k = top.scores.shape[1]
    better, candidate = candidates(q, block, top.scores, block.g.dtype)
    if q.dtype != block.g.dtype and candidate.sum() > 2 * k * len(better):
        # Nearly parallel rows: float64 tells most of them apart.
        better, candidate = candidates(q, block, top.scores, torch.float64)
    if len(better) == 0:
        return
    i, j = candidate.nonzero(as_tuple=True)
    scores = cosines(q, block, better[i], j) + block.offset[j]
    merge(top, better, i, TopRows(scores, j + block.first))


def candidates(q: Tensor, block: Block, best: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Queries that the block may improve, (b',), and the rows that may do so, (b', m) bool.

    Comparisons are negated because NaN then passes: it counts as the largest score, as in topk.
    """
    S = products(q, block, dtype)  # (b, m)
    # The error of a sum of d products grows with the square root of d.
    scale = q.shape[1] ** 0.5 + block.offset.abs().amax()
    rounding = 4 * torch.finfo(dtype).eps * scale.to(dtype)
    least = best[:, -1].to(dtype) - rounding
    better = (~(S.amax(1) < least)).nonzero()[:, 0]
    S = S[better]
    kth = S.topk(min(best.shape[1], S.shape[1])).values[:, -1] - rounding
    return better, ~(torch.maximum(kth, least[better])[:, None] > S)


def products(q: Tensor, block: Block, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float64:
        return torch.addmm(block.offset, q, double_unit_rows(block.g).mT)
    safe = (block.length > SHORTEST) & (block.length < LONGEST)
    inverse = torch.where(safe, 1 / block.length, torch.nan)
    return (q.to(dtype) @ block.g.mT).mul_(inverse.to(dtype)).add_(block.offset.to(dtype))


def cosines(q: Tensor, block: Block, i: Tensor, j: Tensor) -> Tensor:
    """cos(q_i, g_j) of each pair (i, j), as a sum of its own: matrix products round by place."""
    size = min(PAIRS, tile_rows(PARTS * 24 * q.shape[1]))
    dots = [(q[i[p]] * block.g[j[p]]).sum(-1) for p in slices(len(i), size)]
    return (torch.cat(dots) / block.length[j]).clamp(-1, 1)


def merge(top: TopRows, better: Tensor, i: Tensor, new: TopRows) -> None:
    """Merge new rows, which come after those in `top`: a stable sort keeps ties in order."""
    k = top.scores.shape[1]
    place = k + torch.arange(len(i), device=i.device) - torch.searchsorted(i, i)
    scores = top.scores.new_full((len(better), 1 + int(place.amax())), -torch.inf)
    indices = top.indices.new_zeros(scores.shape)
    scores[:, :k], indices[:, :k] = top.scores[better], top.indices[better]
    scores[i, place], indices[i, place] = new
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    top.scores[better] = scores[:, :k]
    top.indices[better] = indices.gather(1, order[:, :k])
