"""Freezing shields a module from its parent, and can be undone completely."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from structure_reg import extract_features, freeze


def model() -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4))
    return nn.Sequential(frozen, nn.Linear(4, 2))


def flags(module: nn.Module) -> list[bool]:
    return [part.training for part in module.modules()]


def test_training_the_parent_does_not_move_it() -> None:
    whole = model()
    freeze(whole[0])
    x = torch.randn(8, 4)
    before = whole[0](x)
    whole.train()
    optimiser = torch.optim.SGD([p for p in whole.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        whole(x).square().sum().backward()
        optimiser.step()
    assert torch.equal(whole[0](x), before)
    assert flags(whole) == [True, False, False, False, False, True]
    assert all(p.grad is None for p in whole[0].parameters())


def test_a_train_on_a_part_of_it_is_not_heard_either() -> None:
    whole = model()
    freeze(whole[0])
    for part in whole[0].modules():
        assert part.train() is part
    assert not any(flags(whole[0]))


def test_gradients_flow_through_to_the_input() -> None:
    whole, x = model(), torch.randn(8, 4, requires_grad=True)
    freeze(whole)
    whole(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


@pytest.mark.parametrize("twice", [False, True])
def test_is_undone_to_the_letter(twice: bool) -> None:
    whole = model()
    whole[0][1].eval()
    whole[0][0].weight.requires_grad_(False)
    wanted = [p.requires_grad for p in whole.parameters()]
    before, attributes = flags(whole), [set(vars(part)) for part in whole.modules()]
    with freeze(whole[0]), freeze(whole[0] if twice else whole[1]):
        whole.train()
        assert not any(flags(whole[0]))
    assert flags(whole)[1:] == before[1:]
    assert [p.requires_grad for p in whole.parameters()] == wanted
    assert [set(vars(part)) for part in whole.modules()] == attributes
    assert all(flags(whole.train()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_is_frozen_by_itself(copied: object) -> None:
    whole = model()
    handle = freeze(whole[0])
    other = copied(whole)  # type: ignore[operator]
    handle.close()
    other.train()
    whole.train()
    assert not any(flags(other[0]))
    assert all(flags(whole))


def test_keeps_the_state_dict_and_lets_features_through() -> None:
    whole = model()
    keys = list(whole.state_dict())
    freeze(whole[0])
    assert list(whole.state_dict()) == keys
    whole.train()
    before = flags(whole)
    extract_features(whole, [torch.randn(3, 4)], layers=["0"], pool="mean")
    assert flags(whole) == before


def test_refuses_what_is_no_module() -> None:
    with pytest.raises(TypeError, match=r"^freeze: expected module to be an nn.Module, got list$"):
        freeze([nn.Linear(1, 1)])  # type: ignore[arg-type]
