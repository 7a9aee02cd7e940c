"""New rows from those of a batch: FuseMix between pairs, and Gaussian noise around them."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch
from torch import Tensor

LEAST_ALPHA, MOST_ALPHA = 0.1, 1e8


class Augmentation(NamedTuple):
    """FuseMix where `alpha` is given, then noise where the `deviations` are."""

    alpha: float | None
    deviations: tuple[Tensor, Tensor] | None
    mixing_generator: torch.Generator
    noise_generator: torch.Generator  # on the device: a batch of noise is as large as the batch

    @property
    def is_identity(self) -> bool:
        return self.alpha is None and self.deviations is None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Augment a batch of pairs."""
        if self.alpha is not None:
            x, y = fusemix(x, y, self.alpha, self.mixing_generator)
        if self.deviations is not None:
            x, y = (
                add_noise(z, deviation, self.noise_generator)
                for z, deviation in zip((x, y), self.deviations, strict=True)
            )
        return x, y


def fusemix(
    x: Tensor, y: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    r"""Mix each pair with another one of the batch.

    .. math:: \tilde x_i = \omega_i x_i + (1 - \omega_i) x_{\pi(i)}, \qquad
              \tilde y_i = \omega_i y_i + (1 - \omega_i) y_{\pi(i)}, \qquad
              \omega_i \sim \mathrm{Beta}(\alpha, \alpha)

    Vouitsis et al., "Data-Efficient Multimodal Fusion on a Single GPU", CVPR 2024, arXiv
    2312.10144.
    """
    partner = torch.randperm(len(x), generator=generator).to(x.device)
    omega = beta(alpha, len(x), generator)[:, None].to(x.device)  # (n, 1)
    return omega * x + (1 - omega) * x[partner], omega * y + (1 - omega) * y[partner]


def beta(alpha: float, n: int, generator: torch.Generator) -> Tensor:
    """Draw n numbers from Beta(alpha, alpha), as torch.distributions cannot with a generator."""
    if alpha >= LEAST_ALPHA:
        # Of larger parameters, which float32 does not hold, all numbers are 1/2 as well.
        gammas = torch._standard_gamma(
            torch.full((2, n, 1), min(alpha, MOST_ALPHA)), generator=generator
        )[..., 0]
        return gammas[0] / gammas.sum(0)
    # Both gammas would vanish in float32. Johnk: G(a) is G(a + 1) U^(1/a), here in logarithms.
    gammas = torch._standard_gamma(torch.full((2, n), alpha + 1), generator=generator)
    uniform = 1 - torch.rand(2, n, generator=generator, dtype=torch.float64)  # in (0, 1]
    log_gammas = gammas.log() + uniform.log() / max(alpha, sys.float_info.min)
    return (log_gammas[0] - log_gammas[1]).sigmoid().float()


def add_noise(x: Tensor, deviation: Tensor, generator: torch.Generator) -> Tensor:
    r"""Draw rows around those of x.

    .. math:: \tilde x_i = x_i + \varepsilon_i, \qquad
              \varepsilon_i \sim N(0, \operatorname{diag}(\sigma^2))

    with one standard deviation for each column. Bishop, "Training with Noise is Equivalent to
    Tikhonov Regularization", Neural Computation 1995.
    """
    return x + deviation * torch.randn(x.shape, generator=generator, device=x.device)
