"""Variants of STRUCTURE that the paper compares with it, as modules (frozen, aligned) -> scalar."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structure_reg import cosine_kernel, js_divergence, log_transition_matrix, reverse_js_divergence

DIVERGENCES = {"js": js_divergence, "reverse_js": reverse_js_divergence}


def zscored(x: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; one that is constant stays 0."""
    x = x - x.mean(0)
    spread = x.square().mean(0).sqrt()
    return x / torch.where(spread > 0, spread, 1)


def zscore_kernel(x: Tensor) -> Tensor:
    """Cosines after each column has been standardised, the published order turned round.

    Standardised last, as released, a row's product with itself is near d and every row sees itself
    alone: the term is near 0 for any head.
    """
    return cosine_kernel(zscored(x.float()), centering="none")


def rbf_kernel(x: Tensor, gamma: float = 1.0) -> Tensor:
    """Minus the squared distance of unit rows, so that the softmax is over exp(-γ d²)."""
    return gamma * (2 * cosine_kernel(x, centering="none") - 2)


class Ranks(torch.autograd.Function):
    """Each row's ranks; backward as if it were the identity, because ranks have no slope."""

    @staticmethod
    def forward(_context: object, x: Tensor) -> Tensor:
        return x.argsort(1).argsort(1).to(x.dtype)

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return gradient


def spearman_kernel(x: Tensor) -> Tensor:
    """Rank correlation of the rows."""
    ranks = Ranks.apply(x.float())
    return cosine_kernel(ranks - ranks.mean(1, keepdim=True), centering="none")


KERNELS = {
    "cosine": cosine_kernel,
    "zscore": zscore_kernel,
    "rbf": rbf_kernel,
    "spearman": spearman_kernel,
}


class KernelStructure(nn.Module):
    """STRUCTURE with another kernel or other weights of its levels, written as the formula is.

    Parameters
    ----------
    kernel : {"cosine", "zscore", "rbf", "spearman"}
    weights : {"inverse", "none"}
        Of level l: 1 / l, or 1.
    temperature, levels, divergence
        As in structure_reg.StructureLoss, which is the case "cosine" and "inverse".
    """

    def __init__(
        self,
        *,
        kernel: str = "cosine",
        weights: str = "inverse",
        temperature: float = 0.05,
        levels: int = 1,
        divergence: str = "js",
    ) -> None:
        super().__init__()
        for name, value, choices in (
            ("kernel", kernel, KERNELS),
            ("weights", weights, ("inverse", "none")),
            ("divergence", divergence, DIVERGENCES),
        ):
            if value not in choices:
                raise SystemExit(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        self.kernel, self.distance = KERNELS[kernel], DIVERGENCES[divergence]
        self.weights, self.temperature, self.levels = weights, temperature, levels

    def forward(self, frozen: Tensor, aligned: Tensor) -> Tensor:
        walks = [self.log_walks(x) for x in (frozen, aligned)]
        of_levels = [
            self.distance(log_P, log_Q).mean() / (l if self.weights == "inverse" else 1)
            for l, (log_P, log_Q) in enumerate(zip(*walks, strict=True), 1)
        ]
        return torch.stack(of_levels).mean()

    def log_walks(self, x: Tensor) -> list[Tensor]:
        log_P = log_transition_matrix(self.kernel(x), temperature=self.temperature)
        walks, P = [log_P], log_P.exp()
        for _ in range(self.levels - 1):
            walks.append((walks[-1].exp() @ P).clamp_min(torch.finfo(P.dtype).tiny).log())
        return walks


class MarginStructure(nn.Module):
    """A row's share of changed neighbourhood costs nothing up to a margin, in nats."""

    def __init__(self, *, margin: float = 0.01, temperature: float = 0.05) -> None:
        super().__init__()
        self.margin, self.temperature = margin, temperature

    def forward(self, frozen: Tensor, aligned: Tensor) -> Tensor:
        rows = KernelStructure(temperature=self.temperature)
        log_P, log_Q = (rows.log_walks(x)[0] for x in (frozen, aligned))
        return (js_divergence(log_P, log_Q) - self.margin).relu().mean()


TERMS = {"kernel": KernelStructure, "margin": MarginStructure}
