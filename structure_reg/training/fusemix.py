"""FuseMix: new pairs between two pairs, at the same place in both modalities."""

from __future__ import annotations

import torch
from torch import Tensor


def fusemix(
    x: Tensor, y: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Mix every pair with another of the batch.

    .. math:: \tilde x_i = \omega_i x_i + (1 - \omega_i) x_{\pi(i)}, \qquad
              \tilde y_i = \omega_i y_i + (1 - \omega_i) y_{\pi(i)}, \qquad
              \omega_i \sim \mathrm{Beta}(\alpha, \alpha)

    Vouitsis et al., "Data-Efficient Multimodal Fusion on a Single GPU", CVPR 2024, arXiv
    2312.10144.
    """
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    # Beta from two gammas: torch.distributions takes no generator.
    gammas = torch._standard_gamma(torch.full((2, len(x), 1), alpha), generator=generator)
    omega = (gammas[0] / gammas.sum(0)).to(x.device)  # (n, 1)
    return omega * x + (1 - omega) * x[partner], omega * y + (1 - omega) * y[partner]
