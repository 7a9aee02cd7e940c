"""The temperature of the default STRUCTURE, from the number of neighbours that rows can have."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from structure_reg.losses.structure import StructureLoss
from structure_reg.losses.temperature import entropy_and_slope, temperature_for_perplexity
from structure_reg.losses.transition import cosine_kernel
from structure_reg.training._checks import check_directions

PERPLEXITY = 40.0
COLD = 1e-6  # in the kernel's spread; only rows equal up to rounding are neighbours here


def at_perplexity(name: str, frozen: Tensor, batch_size: int) -> StructureLoss:
    """STRUCTURE at the temperature that gives the rows of a batch the default perplexity.

    `frozen` are different rows: copies of a row would count as its neighbours.
    """
    rows = spread(frozen.detach(), batch_size)
    perplexity = reachable_perplexity(name, rows)
    return StructureLoss(temperature=temperature_for_perplexity(rows, perplexity))


def spread(rows: Tensor, batch_size: int) -> Tensor:
    """As many rows as a batch has, from all over them: data sets often come sorted."""
    return rows[:: max(1, len(rows) // batch_size)][:batch_size]


@torch.no_grad()
def reachable_perplexity(name: str, rows: Tensor) -> float:
    """40, or a third of the rows, each times the number of rows that share a direction.

    In one dimension, for instance, only two directions exist. With N directions, perplexities in
    units of copies lie between 1 and N: with fewer than 5, a third would be next to 1 or below.
    """
    K = cosine_kernel(rows)
    spread = (K.amax() - K.amin()).item()
    entropy, _ = entropy_and_slope(K, COLD * spread or 1.0)
    copies = math.exp(entropy)
    N = len(rows) / copies
    check_directions(name, N)
    return copies * min(PERPLEXITY, max(N / 3, min(1.5, math.sqrt(N))))
