"""Pooling: from the tokens or maps of a layer to one row per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from torch import Tensor

from structure_reg._precision import promote
from structure_reg.features._checks import check_pool_shape, check_token_mask

FUNCTION = "extract_features"
Pool = str | Callable[[Tensor, Tensor | None], Tensor]


def pool_rows(
    x: Tensor,
    mask: Tensor | None,
    pool: Pool,
    *,
    function: str = FUNCTION,
    check_mask: Callable[[str, Tensor, Tensor], None] = check_token_mask,
) -> Tensor:
    """Keep rows (B, d), pool tokens (B, L, d) under the mask, and average maps (B, C, ...)."""
    if mask is not None and isinstance(x, Tensor):  # a pool function may take any output
        mask = mask.to(x.device)
    if not isinstance(pool, str):
        return pool(x, mask)
    check_pool_shape(function, x, pool)
    if x.ndim == 2:
        return x
    if x.ndim > 3:
        return reduce(promote(x)[0], "B C ... -> B C", "mean")
    if mask is not None:
        check_mask(function, mask, x)
        mask = mask != 0
    return POOLS[pool](x, mask)


def first_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the unmasked token at the smallest index: 0 unless padding is on the left."""
    if mask is None:
        return x[:, 0]
    positions = torch.arange(x.shape[1], device=x.device)  # (L,)
    return token_at(x, torch.where(mask, positions, x.shape[1]).amin(1))


def last_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the unmasked token at the largest index: L - 1 unless padding is on the right."""
    if mask is None:
        return x[:, -1]
    positions = torch.arange(x.shape[1], device=x.device)  # (L,)
    return token_at(x, torch.where(mask, positions, -1).amax(1))


def mean_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """Average the unmasked tokens; zeros replace the pads, as 0 times NaN is NaN."""
    (x,) = promote(x)
    if mask is None:
        return reduce(x, "B L d -> B d", "mean")
    tokens = torch.where(rearrange(mask, "B L -> B L 1"), x, 0)
    return reduce(tokens, "B L d -> B d", "sum") / reduce(mask, "B L -> B 1", "sum")


def token_at(x: Tensor, positions: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device), positions]  # (B, d)


POOLS = {"cls": first_token, "mean": mean_token, "last": last_token}
