"""Noise on the features of a batch: more rows than there are pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def noisy(x: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    r"""Draw rows around those of x.

    .. math:: \tilde x_i = x_i + \varepsilon_i, \qquad
              \varepsilon_i \sim N(0, \operatorname{diag}(\sigma^2))

    with a standard deviation for every column. Bishop, "Training with Noise is Equivalent to
    Tikhonov Regularization", Neural Computation 1995.
    """
    return x + deviation * torch.randn(x.shape, generator=generator, device=x.device)
