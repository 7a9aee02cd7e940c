"""STRUCTURE where it is hard: extreme temperatures, degenerate rows, low precision, ablations."""

from __future__ import annotations

from itertools import product
from math import log

import numpy as np
import oracles
import pytest
import torch
from contract import normal, two_widths
from torch import Tensor

from structure_reg import (
    cosine_kernel,
    js_divergence,
    log_transition_matrix,
    structure_loss,
)

TEMPERATURES = (1e-3, 0.01, 0.05, 0.5, 10.0)


def x(n: int = 24, d: int = 8, seed: int = 0) -> Tensor:
    return normal(n, d, seed=seed, dtype=torch.float32)


def with_zero_rows() -> Tensor:
    rows = x()
    rows[[0, 3]] = 0
    return rows


DEGENERATE = {
    "ordinary": (x(), x(seed=1)),
    "two rows": (x(2), x(2, seed=1)),
    "zero rows": (with_zero_rows(), with_zero_rows()),
    "all zero": (torch.zeros(5, 3), torch.zeros(5, 3)),
    "equal rows": (x(6).repeat(4, 1), x(6, seed=1).repeat(4, 1)),
    "aligned collapsed": (x(), torch.ones(24, 8)),
    "frozen collapsed": (torch.ones(24, 8), x()),
    "large": (x() * 1e4, x(seed=1) * 1e4),
    "small": (x() * 1e-6, x(seed=1) * 1e-6),
    "beyond the squares of float32": (x() * 1e30, x(seed=1) * 1e-30),
    "one column": (x(d=1), x(d=1, seed=1)),
    "opposite poles": (torch.eye(4).repeat(2, 1), -torch.eye(4).repeat_interleave(2, 0)),
}


@pytest.mark.parametrize("divergence", ["js", "reverse_js"])
@pytest.mark.parametrize("case", DEGENERATE)
def test_value_and_gradient_are_finite(case: str, divergence: str) -> None:
    frozen, aligned = DEGENERATE[case]
    for temperature, levels in product(TEMPERATURES, (1, 2, 5)):
        leaf = aligned.clone().requires_grad_()
        value = structure_loss(
            frozen, leaf, temperature=temperature, levels=levels, divergence=divergence
        )
        value.backward()
        assert value.isfinite()
        assert leaf.grad.isfinite().all()
        if divergence == "js":
            bound = log(2) * sum(1 / level for level in range(1, levels + 1)) / levels
            assert -1e-6 <= value <= bound + 1e-6


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("levels", [1, 2, 3])
def test_float32_follows_the_oracle(temperature: float, levels: int) -> None:
    for frozen, aligned in (DEGENERATE["ordinary"], DEGENERATE["zero rows"]):
        value = structure_loss(frozen, aligned, temperature=temperature, levels=levels)
        exact = oracles.structure_loss(
            frozen.double().numpy(),
            aligned.double().numpy(),
            temperature=temperature,
            levels=levels,
        )
        assert value == pytest.approx(exact, abs=1e-6 + 1e-7 / temperature)


def test_the_gradient_goes_to_aligned_alone() -> None:
    frozen, aligned = (t.requires_grad_() for t in two_widths(10, 0))
    structure_loss(frozen, aligned).backward()
    assert frozen.grad is None
    assert aligned.grad.norm() > 0


@pytest.mark.parametrize("levels", [1, 3])
def test_equal_sides_cost_exactly_nothing(levels: int) -> None:
    features = x(64, 16)
    assert structure_loss(features, features, levels=levels) == 0


def test_a_collapsed_head_has_no_gradient() -> None:
    """Centred equal rows are zero: nothing tells the loss which way is out."""
    leaf = torch.full((24, 8), 0.5).requires_grad_()
    value = structure_loss(x(), leaf)
    value.backward()
    assert value > 0.1
    assert not leaf.grad.any()


def test_two_rows_by_hand() -> None:
    """Opposite unit rows against equal ones: P = softmax of ±1/τ, Q = 1/2."""
    frozen, aligned = torch.tensor([[1.0], [-1.0]]), torch.ones(2, 1)
    p = torch.sigmoid(torch.tensor(2 / 0.5, dtype=torch.float64))
    expected = oracles.js_divergence(np.log(np.array([p, 1 - p])), np.log(np.array([0.5, 0.5])))
    assert structure_loss(frozen, aligned, temperature=0.5) == pytest.approx(expected, rel=1e-6)


def test_levels_are_weighted_by_their_inverse() -> None:
    frozen, aligned = two_widths(12, 0)
    P, Q = (
        log_transition_matrix(cosine_kernel(t), temperature=0.3).exp() for t in (frozen, aligned)
    )
    by_level = [
        js_divergence(
            torch.linalg.matrix_power(P, level).log(), torch.linalg.matrix_power(Q, level).log()
        ).mean()
        for level in (1, 2, 3)
    ]
    expected = (by_level[0] + by_level[1] / 2 + by_level[2] / 3) / 3
    value = structure_loss(frozen, aligned, temperature=0.3, levels=3)
    torch.testing.assert_close(value, expected)


def rbf(features: Tensor) -> Tensor:
    return torch.exp(-torch.cdist(features, features).square())


def ranks(features: Tensor) -> Tensor:
    return features.argsort(1).argsort(1).to(features.dtype)


def z_score(features: Tensor) -> Tensor:
    return (features - features.mean(0)) / features.std(0)


def test_the_ablations_of_the_release_compose() -> None:
    """Other kernels, z-scores and a margin, from public pieces."""
    frozen, aligned = two_widths(12, 0)
    aligned.requires_grad_()
    of_rbf = js_divergence(
        log_transition_matrix(rbf(frozen), temperature=1.0),
        log_transition_matrix(rbf(aligned), temperature=1.0),
    ).mean()
    of_ranks = js_divergence(
        log_transition_matrix(cosine_kernel(ranks(frozen))),
        log_transition_matrix(cosine_kernel(ranks(aligned))),
    ).mean()
    of_z_scores = structure_loss(z_score(frozen), z_score(aligned), centering="none")
    beyond_margin = (structure_loss(frozen, aligned, reduction="none") - 0.01).relu().mean()
    for value, has_gradient in (
        (of_rbf, True),
        (of_ranks, False),
        (of_z_scores, True),
        (beyond_margin, True),
    ):
        assert 0 < value < log(2)
        assert value.requires_grad == has_gradient
    shifted = structure_loss(3 * z_score(frozen) + 1, z_score(aligned), centering="none")
    assert shifted != of_z_scores
    again = structure_loss(z_score(3 * frozen + 1), z_score(aligned), centering="none")
    torch.testing.assert_close(again, of_z_scores)
