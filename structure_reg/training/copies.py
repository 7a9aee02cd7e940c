"""Rows that are copies of each other, such as the text of a class, once for each of its images."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from structure_reg.training.choice import first_of_each
from structure_reg.training.rows import Rows
from structure_reg.training.together import gathered

DIGEST = 16  # bytes


def ids_of_copies(x: Tensor | Rows, y: Tensor | Rows) -> Tensor | None:
    """Number of each pair's row among the different rows of the side that has fewer of them.

    None if all rows differ on both sides. Equal rows cannot be told apart, so their pairs can only
    be positives of each other. One side decides: linking pairs through both would chain most pairs
    to one another where both have copies.
    """
    of_x, of_y = copy_numbers(x), copy_numbers(y)
    fewer = of_x if of_x.max() < of_y.max() else of_y
    return None if fewer.max() == len(x) - 1 else fewer


def copy_numbers(x: Tensor | Rows) -> Tensor:
    """Number of each row among the different rows; -0 equals 0."""
    if isinstance(x, Rows):
        return numbers_by_hash(x)
    numbers: Tensor = torch.unique(x, dim=0, return_inverse=True)[1]
    return numbers


def numbers_by_hash(x: Rows) -> Tensor:
    """The same in order of first appearance, from 128 bits of each row: 16 bytes a row are held."""
    own = x.own
    of_own = b"".join(
        blake2b(row, digest_size=DIGEST).digest()
        for block in own.blocks()
        for row in (own[block] + 0.0).cpu().numpy()  # -0 + 0 = 0
    )
    bits = np.frombuffer(b"".join(gathered(of_own, x.group)), f"V{DIGEST}")
    _, first, numbers = np.unique(bits, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[numbers]).to(x.device)


def different_rows(x: Tensor | Rows) -> Tensor:
    """Positions of the rows without later copies, in order; (m,)."""
    return first_of_each(copy_numbers(x))
