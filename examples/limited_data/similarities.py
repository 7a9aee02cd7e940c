"""Similarities of the released code that the library lacks, as functions of two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg import cka, cosine_kernel, log_transition_matrix, structure_loss

TEMPERATURE = 0.05


def biased_cka(x: Tensor, y: Tensor) -> Tensor:
    """CKA as usually written: high for few rows with many columns, even if they are unrelated."""
    return cka(x, y, debiased=False)


def hcs(x: Tensor, y: Tensor) -> Tensor:
    """exp(-R), where R is the structure loss: 1 if the neighbourhoods are the same."""
    return (-structure_loss(x, y, temperature=TEMPERATURE)).exp()


def hcs_release(x: Tensor, y: Tensor) -> Tensor:
    """HCS as released: rows are summed instead of averaged, and raw features are centred.

    For a few hundred rows the sum is so large that its exponential is close to 0.
    """
    total = structure_loss(
        x, y, temperature=TEMPERATURE, divergence="reverse_js", centering="before", reduction="sum"
    )
    return (-total.double()).exp()


def hop_cka(x: Tensor, y: Tensor, hops: int) -> Tensor:
    """CKA of the positions of a random walk over the samples after `hops` steps."""
    positions = []
    for side in (x, y):
        P = log_transition_matrix(cosine_kernel(side.float()), temperature=TEMPERATURE).exp()
        positions.append(torch.linalg.matrix_power(P, hops))  # (n, n)
    return cka(*positions)


def one_hop_cka(x: Tensor, y: Tensor) -> Tensor:
    return hop_cka(x, y, 1)


def two_hop_cka(x: Tensor, y: Tensor) -> Tensor:
    return hop_cka(x, y, 2)


def three_hop_cka(x: Tensor, y: Tensor) -> Tensor:
    return hop_cka(x, y, 3)


METRICS = {
    metric.__name__: metric
    for metric in (biased_cka, hcs, hcs_release, one_hop_cka, two_hop_cka, three_hop_cka)
}
