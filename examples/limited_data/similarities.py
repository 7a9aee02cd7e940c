"""Similarities that the release has beside those of the library, as functions of two tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg import cka, cosine_kernel, log_transition_matrix, structure_loss

TEMPERATURE = 0.05


def biased_cka(x: Tensor, y: Tensor) -> Tensor:
    """CKA as it is usually written: high for few rows of many columns, whatever they hold."""
    return cka(x, y, debiased=False)


def hcs(x: Tensor, y: Tensor) -> Tensor:
    """exp(-R): 1 where the neighbourhoods are the same."""
    return (-structure_loss(x, y, temperature=TEMPERATURE)).exp()


def hcs_release(x: Tensor, y: Tensor) -> Tensor:
    """The same as released: rows summed, not averaged, and the mean taken off the raw features.

    Of some hundred rows the sum is so large that hardly anything is left of its exponential.
    """
    total = structure_loss(
        x, y, temperature=TEMPERATURE, divergence="reverse_js", centering="before", reduction="sum"
    )
    return (-total.double()).exp()


def hop_cka(x: Tensor, y: Tensor, hops: int) -> Tensor:
    """CKA of where a random walk over the samples is after so many steps."""
    after = []
    for side in (x, y):
        P = log_transition_matrix(cosine_kernel(side.float()), temperature=TEMPERATURE).exp()
        after.append(torch.linalg.matrix_power(P, hops))  # (n, n)
    return cka(*after)


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
