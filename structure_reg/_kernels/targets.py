"""CLIP's targets T for a tile of logits: the sums that they select, and their gradient."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Targets(NamedTuple):
    """T_ij = 1/k_j where rows i and j share an id, or I; then `label_smoothing` over all N."""

    shared: tuple[Tensor, Tensor] | None  # ids of the columns and their k, both (N,)
    first: int  # the column that is the partner of this process's first row
    label_smoothing: float

    def sums(self, Z: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """Σ_j T_ij Z_ij (B,) and Σ_i T_ij Z_ij (N,) of a tile (B, N) that begins at row `start`."""
        if self.shared is None:
            partners = self.first + start
            rows = Z.diagonal(partners)
            columns = Z.new_zeros(Z.shape[1])
            columns[partners : partners + len(Z)] = rows
        else:
            TZ = self.tile(*self.shared, Z, start).mul_(Z)
            rows, columns = TZ.sum(1), TZ.sum(0)
        if self.label_smoothing:
            rows = torch.lerp(rows, Z.mean(1), self.label_smoothing)
            columns = torch.lerp(columns, Z.sum(0) / Z.shape[1], self.label_smoothing)
        return rows, columns

    def add_gradient(self, G: Tensor, start: int, rows: Tensor, columns: Tensor) -> None:
        """G_ij += T_ij (rows_i + columns_j), the gradient of both sums."""
        unsmoothed = 1 - self.label_smoothing
        if self.shared is None:
            partners = self.first + start
            partner_columns = columns[partners : partners + len(G)]
            G.diagonal(partners).add_(rows + partner_columns, alpha=unsmoothed)
        else:
            both = rows[:, None] + columns
            G.addcmul_(self.tile(*self.shared, G, start), both, value=unsmoothed)
        if self.label_smoothing:
            spread = self.label_smoothing / G.shape[1]
            G.add_(rows[:, None], alpha=spread).add_(columns, alpha=spread)

    def tile(self, ids: Tensor, k: Tensor, like: Tensor, start: int) -> Tensor:
        row_ids = ids[self.first + start : self.first + start + len(like), None]
        return (row_ids == ids).to(like.dtype).div_(k)  # (B, N)


def targets(ids: Tensor | None, first: int, label_smoothing: float) -> Targets:
    """Targets with their counts k, found by sorting: no (N, N) matrix, no GPU synchronisation."""
    if ids is None:
        return Targets(None, first, label_smoothing)
    ordered = ids.sort().values
    k = torch.searchsorted(ordered, ids, right=True) - torch.searchsorted(ordered, ids)
    return Targets((ids, k), first, label_smoothing)
