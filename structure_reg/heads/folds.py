"""Pairs to fit on and pairs to judge by, never two of one id apart."""

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
) -> list[tuple[Tensor, Tensor]]:
    """Rows (kept, left out) of each fold, for at most `max_samples` rows in random order."""
    check_ids(function, ids, x)
    order = torch.randperm(len(x), generator=generator, device=generator.device)
    rows = order[:max_samples].to(x.device)
    if ids is None:
        of_row = torch.arange(len(rows), device=x.device)
    else:
        distinct, of_row = torch.unique(ids[rows], return_inverse=True)
        shuffle = torch.randperm(len(distinct), generator=generator, device=generator.device)
        of_row = shuffle.to(x.device)[of_row]
    check_folds(function, int(of_row.max()) + 1, 2 * count)
    fold = of_row % count
    return [(rows[fold != k], rows[fold == k]) for k in range(count)]
