"""The trainable heads: their formulas, their initialisation, and that every parameter learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract import normal
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear

from structure_reg import GatedHead, LinearHead, MlpHead, ResidualHead

HEADS: dict[type[nn.Module], dict[str, Any]] = {
    LinearHead: {"bias": False},
    ResidualHead: {"rank": 3, "dropout": 0.5},
    MlpHead: {"hidden_features": 9, "dropout": 0.5},
    GatedHead: {"expansion": 2},
}
every_head = pytest.mark.parametrize("kind", HEADS, ids=lambda kind: kind.__name__)
X = normal(20, 6, seed=0)


def made(kind: type[nn.Module], **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(6, 4, **options).double()


def stepped(head: nn.Module, steps: int) -> nn.Module:
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (head(X) - normal(20, 4, seed=1)).square().mean().backward()
        optimizer.step()
    return head


def formula(head: Any, x: Tensor) -> Tensor:
    if isinstance(head, LinearHead):
        return x @ head.weight.T
    if isinstance(head, ResidualHead):
        correction = gelu(x @ head.W1.weight.T) @ head.W2.weight.T
        return x @ head.P.weight.T + correction / (1 + torch.exp(-head.a))
    if isinstance(head, MlpHead):
        return linear(
            (x @ head.W1.weight.T + head.W1.bias).clamp_min(0), head.W2.weight, head.W2.bias
        )
    h = layer_norm(x, (6,)) * head.norm.weight + head.norm.bias
    gate = linear(h, head.W1.weight, head.W1.bias).clamp(0, 6)
    return linear(gate * linear(h, head.W2.weight, head.W2.bias), head.W3.weight, head.W3.bias)


@every_head
def test_is_its_formula(kind: type[nn.Module]) -> None:
    head = stepped(made(kind, **HEADS[kind]), 3).eval()
    assert head(X).shape == (20, 4)
    torch.testing.assert_close(head(X), formula(head, X))


@every_head
def test_every_parameter_learns(kind: type[nn.Module]) -> None:
    """The gate learns from the second step on."""
    head = made(kind)
    before = {name: p.clone() for name, p in head.named_parameters()}
    for name, parameter in stepped(head, 2).named_parameters():
        assert not torch.equal(parameter, before[name]), name


@every_head
def test_arguments_make_the_same_head(kind: type[nn.Module]) -> None:
    head = made(kind, **HEADS[kind])
    arguments = head.arguments()
    assert arguments == {"in_features": 6, "out_features": 4, **HEADS[kind]}
    again = kind(**arguments).double()
    again.load_state_dict(head.state_dict())
    assert torch.equal(again.eval()(X), head.eval()(X))


def test_a_residual_head_starts_as_its_orthogonal_projection() -> None:
    head = made(ResidualHead)
    assert torch.equal(head(X), X @ head.P.weight.T)
    P = head.P.weight.float()  # drawn in float32
    torch.testing.assert_close(P @ P.T, torch.eye(4))
    assert head.a.sigmoid() == 0.5


@every_head
def test_gradient_is_the_derivative(kind: type[nn.Module]) -> None:
    head = stepped(made(kind), 2)
    assert torch.autograd.gradcheck(head, (X.clone().requires_grad_(),))


@every_head
def test_refuses_sizes(kind: type[nn.Module]) -> None:
    name = kind.__name__
    sizes = {"in_features": 6, "out_features": 4, **HEADS[kind]}
    for size in sizes:
        if size == "bias":
            continue
        with pytest.raises(ValueError, match=f"^{name}: expected .*{size}"):
            kind(**{**sizes, size: -1})
        with pytest.raises(TypeError, match=f"^{name}: expected {size} to be a"):
            kind(**{**sizes, size: "3"})
