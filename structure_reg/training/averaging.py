r"""The average of several canonical maps, each of some of the columns.

.. math:: \cos(z_x, z_y) \approx \sum_k w_k \cos(A_k^\top x_k, B_k^\top y_k)

with weights that sum to 1: the maps are put side by side, each scaled to a mean squared length of
its weight, and reduced to the directions in which their outputs vary most.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from structure_reg._precision import double, needs_float64
from structure_reg.heads.cca_selection import CcaSelection
from structure_reg.heads.linear import LinearHead, linear_head


class Member(NamedTuple):
    """One of the maps that are averaged."""

    x: Tensor  # positions of its columns, which ascend
    y: Tensor
    cca: CcaSelection  # its ridges and power
    weight: float


class Outputs(NamedTuple):
    """The maps of one side, side by side: z = W x + b."""

    W: Tensor  # (Σ r, d) float64
    b: Tensor  # (Σ r,)
    C: Tensor  # (Σ r, Σ r) mean of z zᵀ over the pairs


@needs_float64
@torch.no_grad()
def averaged_heads(
    members: list[Member], maps: list[tuple[LinearHead, LinearHead]], pairs: Any, dim: int
) -> tuple[LinearHead, LinearHead]:
    """Average the maps of both sides, in at most `dim` dimensions."""
    columns_x, columns_y = [member.x for member in members], [member.y for member in members]
    m = pairs.moments
    of_x = outputs(columns_x, [g for g, _ in maps], pairs.x, None if m is None else m.M_xx)
    of_y = outputs(columns_y, [g for _, g in maps], pairs.y, None if m is None else m.M_yy)
    ranks = [len(g.weight) for g, _ in maps]
    weights = [member.weight for member in members]
    W_x, b_x, C_x = scaled(of_x, ranks, weights)
    W_y, b_y, C_y = scaled(of_y, ranks, weights)
    Q = torch.linalg.eigh(C_x + C_y).eigenvectors[:, -dim:]  # (Σ r, dim), the same for both sides
    return head_of(Q.mT @ W_x, Q.mT @ b_x), head_of(Q.mT @ W_y, Q.mT @ b_y)


def outputs(columns: list[Tensor], maps: list[LinearHead], x: Any, M: Tensor | None) -> Outputs:
    """Weights in the columns that each map reads, and 0 elsewhere; M are the moments of x."""
    d = x.shape[1]
    rows = []
    for where, g in zip(columns, maps, strict=True):
        W = torch.zeros(len(g.weight), d, dtype=torch.float64, device=g.weight.device)
        W[:, where.to(W.device)] = double(g.weight)
        rows.append(W)
    W, b = torch.cat(rows), torch.cat([double(g.bias) for g in maps])
    if M is None:
        z = double(x) @ W.mT + b  # (n, Σ r)
        return Outputs(W, b, z.mT @ z / len(x))
    return Outputs(W, b, W @ M.to(W.device) @ W.mT / len(x))


def scaled(z: Outputs, ranks: list[int], weights: list[float]) -> Outputs:
    """Outputs whose mean squared length is its weight for each map."""
    squares = [part.sum() for part in torch.split(z.C.diagonal(), ranks)]
    factors = [
        ((w / s).sqrt() if s > 0 else s).expand(r)
        for w, s, r in zip(weights, squares, ranks, strict=True)
    ]
    f = torch.cat(factors)
    return Outputs(f[:, None] * z.W, f * z.b, f[:, None] * z.C * f)


def head_of(W: Tensor, b: Tensor) -> LinearHead:
    head = linear_head(W.mT, torch.zeros_like(W[0]), torch.ones_like(W[0]), torch.float32)
    head.bias.copy_(b)
    return head
