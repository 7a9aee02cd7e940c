"""From the tokens or places of a layer to one row per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from structure_reg._precision import promote
from structure_reg.features._checks import check_poolable, check_token_mask

FUNCTION = "extract_features"
Pool = str | Callable[[Tensor, Tensor | None], Tensor]


def pool_rows(
    x: Tensor,
    mask: Tensor | None,
    pool: Pool,
    *,
    function: str = FUNCTION,
    check: Callable[[str, Tensor, Tensor], None] = check_token_mask,
) -> Tensor:
    """Rows (B, d) stay, tokens (B, L, d) are pooled under the mask, maps (B, C, ...) averaged."""
    if mask is not None and isinstance(x, Tensor):  # a function may pool what is none
        mask = mask.to(x.device)
    if not isinstance(pool, str):
        return pool(x, mask)
    check_poolable(function, x, pool)
    if x.ndim == 2:
        return x
    if x.ndim > 3:
        return promote(x)[0].flatten(2).mean(-1)  # (B, C)
    if mask is not None:
        check(function, mask, x)
        mask = mask != 0
    return POOLS[pool](x, mask)


def first_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """The token at the smallest index that the mask shows: 0 but under left padding."""
    if mask is None:
        return x[:, 0]
    places = torch.arange(x.shape[1], device=x.device)  # (L,)
    return take(x, torch.where(mask, places, x.shape[1]).amin(1))


def last_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """The token at the largest index that the mask shows: L - 1 but under right padding."""
    if mask is None:
        return x[:, -1]
    places = torch.arange(x.shape[1], device=x.device)  # (L,)
    return take(x, torch.where(mask, places, -1).amax(1))


def mean_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """The mean of the tokens that the mask shows; a pad does not enter even as NaN times zero."""
    (x,) = promote(x)
    if mask is None:
        return x.mean(1)
    return torch.where(mask[..., None], x, 0).sum(1) / mask.sum(1, keepdim=True)


def take(x: Tensor, places: Tensor) -> Tensor:
    return x[torch.arange(len(x), device=x.device), places]  # (B, d)


POOLS = {"cls": first_token, "mean": mean_token, "last": last_token}
