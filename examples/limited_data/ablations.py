"""The variants of STRUCTURE that the paper compares, and the objective that refines CSA.

A term is a module (frozen, aligned) -> scalar. If there are unpaired rows, it receives them as
anchors=(frozen, aligned), as StructureLoss does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from structure_reg import (
    LinearHead,
    cosine_kernel,
    js_divergence,
    log_transition_matrix,
    reverse_js_divergence,
    structure_loss,
)

Anchors = tuple[Tensor, Tensor] | None
DIVERGENCES = {"js": js_divergence, "reverse_js": reverse_js_divergence}


def zscored(x: Tensor) -> Tensor:
    """Scale columns to mean 0 and variance 1; a constant column becomes 0."""
    x = x - x.mean(0)
    spread = x.square().mean(0).sqrt()
    return x / torch.where(spread > 0, spread, 1)


def zscore_kernel(x: Tensor) -> Tensor:
    """Cosines after each column has been standardised, which reverses the published order.

    If columns are standardised last, as in the release, the product of a row with itself is near d
    and every row has only itself as a neighbour, so the term is near 0 for any head.
    """
    return cosine_kernel(zscored(x.float()), centering="none")


def rbf_kernel(x: Tensor, gamma: float = 1.0) -> Tensor:
    """Minus the squared distance of unit rows, so that the softmax is over exp(-γ d²)."""
    return gamma * (2 * cosine_kernel(x, centering="none") - 2)


class Ranks(torch.autograd.Function):
    """Ranks within each row; backward is that of the identity, because ranks have no slope."""

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
    """STRUCTURE with another kernel or other level weights, written like the formula.

    Parameters
    ----------
    kernel : {"cosine", "zscore", "rbf", "spearman"}
    weights : {"inverse", "none"}
        Weight of level l: 1 / l, or 1.
    temperature, levels, divergence
        As in structure_reg.StructureLoss, which equals "cosine" with "inverse".
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

    def forward(self, frozen: Tensor, aligned: Tensor, *, anchors: Anchors = None) -> Tensor:
        walks = [self.log_walks(x) for x in with_anchors(frozen, aligned, anchors)]
        of_levels = [
            self.distance(log_P, log_Q)[: len(aligned)].mean()
            / (l if self.weights == "inverse" else 1)
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
    """STRUCTURE that ignores the divergence of a row up to a margin, in nats."""

    def __init__(self, *, margin: float = 0.01, temperature: float = 0.05) -> None:
        super().__init__()
        self.margin, self.temperature = margin, temperature

    def forward(self, frozen: Tensor, aligned: Tensor, *, anchors: Anchors = None) -> Tensor:
        walk = KernelStructure(temperature=self.temperature)
        log_P, log_Q = (walk.log_walks(x)[0] for x in with_anchors(frozen, aligned, anchors))
        rows = js_divergence(log_P, log_Q)[: len(aligned)]
        return (rows - self.margin).relu().mean()


class AnchorStructure(nn.Module):
    """STRUCTURE of the unpaired rows only; with few rows the set is the same at every step."""

    def __init__(self, *, temperature: float = 0.05, levels: int = 1) -> None:
        super().__init__()
        self.temperature, self.levels = temperature, levels

    def forward(self, _frozen: Tensor, _aligned: Tensor, *, anchors: Anchors = None) -> Tensor:
        if anchors is None:
            raise SystemExit("structure: expected data.unpaired for the term anchors, got none")
        return structure_loss(*anchors, temperature=self.temperature, levels=self.levels)


def with_anchors(frozen: Tensor, aligned: Tensor, anchors: Anchors) -> tuple[Tensor, Tensor]:
    if anchors is None:
        return frozen, aligned
    return torch.cat([frozen, anchors[0].detach()]), torch.cat([aligned, anchors[1]])


class InnerProducts(nn.Module):
    """The objective of CSA's refinement: the sum over a batch of the inner products of partners.

    Training starts from the weights of a CCA, with STRUCTURE of weight 10. The loss is minus
    0.01 / k times that sum, where k is the number of directions.
    """

    def __init__(self, *, weight: float = 0.01) -> None:
        super().__init__()
        self.weight = weight

    def forward(
        self, x: Tensor, y: Tensor, _logit_scale: Tensor, *, ids: Tensor | None = None
    ) -> Tensor:
        del ids  # uses partners only, no negatives
        return -self.weight * (x * y).sum() / x.shape[1]


@torch.no_grad()
def whiten(head: nn.Module, z: Tensor) -> None:
    """Set W to C^(-1/2) W, with C the covariance of the outputs z, on its nonzero directions."""
    if not isinstance(head, LinearHead):
        raise SystemExit(f"contrastive: expected linear heads for inner, got {type(head).__name__}")
    C = (z - z.mean(0)).T @ (z - z.mean(0)) / len(z)
    values, V = torch.linalg.eigh(C.double())
    there = values > values[-1] * len(z) * torch.finfo(z.dtype).eps
    root = (V[:, there] * values[there].rsqrt()) @ V[:, there].T
    head.weight.copy_(root.to(z.dtype) @ head.weight)
    head.bias.copy_(root.to(z.dtype) @ head.bias)


TERMS = {"kernel": KernelStructure, "margin": MarginStructure, "anchors": AnchorStructure}
