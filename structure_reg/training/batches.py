"""Batches of pairs without end, augmented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.heads.moments import PairMoments
from structure_reg.losses.frozen import FrozenStructure
from structure_reg.training.augmentation import Augmentation
from structure_reg.training.averaging import Member
from structure_reg.training.rows import Rows

Unpaired = tuple[Tensor | Rows, Tensor | Rows]  # rows of x and rows of y that have no partner


class Pairs(NamedTuple):
    """The training data."""

    x: Tensor | Rows
    y: Tensor | Rows
    ids: Tensor | None
    unpaired: Unpaired | None = None
    moments: PairMoments | None = None  # of rows that are not held in memory
    members: list[Member] | None = None  # canonical maps to average; None for one of all columns


class Batch(NamedTuple):
    """What a step sees."""

    x: Tensor
    y: Tensor
    ids: Tensor | None
    frozen: tuple[FrozenStructure, FrozenStructure] | None = None  # neighbourhoods of x and y
    unpaired: tuple[Tensor, Tensor] | None = None


def batches(
    pairs: Pairs,
    batch_size: int,
    augmentation: Augmentation,
    frozen: tuple[FrozenStructure, FrozenStructure] | None,
    generator: torch.Generator,
    unpaired_rows: int = 0,
) -> Iterator[Batch]:
    """All pairs, or shuffled batches of them without the last one if it is not full."""
    for rows in batch_rows(len(pairs.x), batch_size, generator):
        ids = pairs.ids
        if rows is None:
            x, y = pairs.x[:], pairs.y[:]
        else:
            rows = rows.to(pairs.x.device)
            x, y, ids = pairs.x[rows], pairs.y[rows], None if ids is None else ids[rows]
        x, y = augmentation(x, y)
        unpaired = sample(pairs.unpaired, unpaired_rows, generator)
        yield Batch(x, y, ids, frozen, unpaired)


def batch_rows(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor | None]:
    """Rows of one batch after another, a new permutation each pass; None stands for all rows."""
    while True:
        order = torch.randperm(n, generator=generator)
        if n <= batch_size:
            yield None
        else:
            for start in range(0, n - batch_size + 1, batch_size):
                yield order[start : start + batch_size]


def sample(
    unpaired: Unpaired | None, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """All unpaired rows of a side in their order, or as many as there may be, at random."""
    if unpaired is None:
        return None
    x, y = (
        rows[:]
        if len(rows) <= most
        else rows[torch.randperm(len(rows), generator=generator)[:most].to(rows.device)]
        for rows in unpaired
    )
    return x, y
