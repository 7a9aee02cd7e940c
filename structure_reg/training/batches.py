"""Batches of pairs without end, augmented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg.losses.frozen import FrozenStructure
from structure_reg.training.augmentation import Augmentation

Unpaired = tuple[Tensor, Tensor]  # rows of x and rows of y that have no partner


class Pairs(NamedTuple):
    """The training data."""

    x: Tensor
    y: Tensor
    ids: Tensor | None
    unpaired: Unpaired | None = None


class Batch(NamedTuple):
    """What a step sees."""

    x: Tensor
    y: Tensor
    ids: Tensor | None
    frozen: tuple[FrozenStructure, FrozenStructure] | None = None  # neighbourhoods of x and y
    unpaired: Unpaired | None = None


def batches(
    pairs: Pairs,
    batch_size: int,
    augmentation: Augmentation,
    frozen: tuple[FrozenStructure, FrozenStructure] | None,
    generator: torch.Generator,
) -> Iterator[Batch]:
    """All pairs, or shuffled batches of them without the last one if it is not full."""
    for rows in batch_rows(len(pairs.x), batch_size, generator):
        x, y, ids = pairs.x, pairs.y, pairs.ids
        if rows is not None:
            rows = rows.to(x.device)
            x, y, ids = x[rows], y[rows], None if ids is None else ids[rows]
        x, y = augmentation(x, y)
        yield Batch(x, y, ids, frozen, sample(pairs.unpaired, batch_size, generator))


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
    unpaired: Unpaired | None, batch_size: int, generator: torch.Generator
) -> Unpaired | None:
    """As many unpaired rows as a batch has, at random from each side."""
    if unpaired is None:
        return None
    x, y = (
        rows[torch.randperm(len(rows), generator=generator)[:batch_size].to(rows.device)]
        for rows in unpaired
    )
    return x, y
