"""Cross-validation folds that keep the pairs of one id together."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_ids
from structure_reg.heads._checks import check_folds


def folds(
    function: str,
    x: Tensor,
    ids: Tensor | None,
    count: int,
    max_samples: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return at most `max_samples` random rows, and the fold of each of them."""
    check_ids(function, ids, x)
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    rows = order[:max_samples].to(x.device)
    if ids is None:
        group = torch.arange(len(rows), device=x.device)
    else:
        distinct, group = torch.unique(ids[rows], return_inverse=True)
        shuffle = torch.randperm(len(distinct), generator=generator, device=generator.device)
        group = shuffle.to(x.device)[group]
    check_folds(function, int(group.max()) + 1, 2 * count)
    return rows, group % count
