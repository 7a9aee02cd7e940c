"""Heads survive a round trip through a file, and other files are refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import normal
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from structure_reg import (
    GatedHead,
    LinearHead,
    MlpHead,
    ResidualHead,
    fit_asif,
    fit_csa,
    fit_ridge,
    load_heads,
    save_heads,
)

X, Y = normal(12, 6, seed=0, dtype=torch.float32), normal(12, 5, seed=1, dtype=torch.float32)
HEADS = {
    "linear": (LinearHead(6, 4), LinearHead(5, 4, bias=False)),
    "trained": (ResidualHead(6, 4, rank=2, dropout=0.5), GatedHead(5, 4, expansion=3)),
    "mlp": (MlpHead(6, 4, hidden_features=7, dropout=0.5),),
    "ridge": fit_ridge(X, Y),
    "csa": fit_csa(X, Y, dim=3),
    "asif": fit_asif(X, Y, k=5, power=2.5),
}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_round_trip(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    heads = tuple(head.to(dtype) for head in HEADS[name])
    save_heads(tmp_path / "heads.safetensors", *heads)
    state = torch.get_rng_state()
    loaded = load_heads(str(tmp_path / "heads.safetensors"))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(loaded) == len(heads)
    for head, again, x in zip(heads, loaded, (X, Y), strict=False):
        assert type(again) is type(head)
        assert not again.training
        assert repr(again) == repr(head)
        assert {k: v.dtype for k, v in again.state_dict().items()} == dict.fromkeys(
            head.state_dict(), dtype
        )
        assert torch.equal(again(x.to(dtype)), head.eval()(x.to(dtype)))
        assert all(p.requires_grad for p in again.parameters())


def test_a_head_may_stand_on_both_sides(tmp_path: Path) -> None:
    head = LinearHead(6, 4)
    save_heads(tmp_path / "file", head, head)
    one, other = load_heads(tmp_path / "file")
    assert torch.equal(one.weight, other.weight)
    assert one.weight.data_ptr() != other.weight.data_ptr()


def test_the_file_is_safetensors_with_json(tmp_path: Path) -> None:
    save_heads(tmp_path / "file", LinearHead(6, 4))
    with safe_open(tmp_path / "file", framework="pt") as file:
        described = json.loads(file.metadata()["heads"])
    arguments = {"in_features": 6, "out_features": 4, "bias": True}
    assert described == [{"kind": "LinearHead", "arguments": arguments}]


def rewritten(path: Path, tensors: dict[str, Any] | None = None, **metadata: str) -> None:
    with safe_open(path, framework="pt") as file:
        before = file.metadata()
    save_file(load_file(path) if tensors is None else tensors, path, {**before, **metadata})


LINEAR = '[{"kind": "LinearHead", "arguments": {"in_features": %s, "out_features": 4}}]'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "the format 'other' instead of 'structure-reg heads 1'"),
        ({"heads": "[1]"}, "an unreadable list of heads"),
        ({"heads": "{"}, "an unreadable list of heads"),
        (
            {"heads": '[{"kind": "Exec", "arguments": {}}]'},
            "the head Exec, which is none of LinearHead,",
        ),
        (
            {"heads": LINEAR % '"6"'},
            r"a LinearHead with bad arguments \(LinearHead: expected in_features",
        ),
        (
            {"heads": LINEAR % 0},
            r"a LinearHead with bad arguments \(LinearHead: expected in_features",
        ),
        (
            {"heads": LINEAR % 10**12},
            r"0.weight of shape \(4, 6\) and torch.float32 instead of floating \(4, 10",
        ),
        ({"heads": "[]"}, "a tensor 0.bias that its heads do not have"),
        ({"tensors": {"0.weight": torch.ones(4, 6)}}, "no tensor 0.bias"),
        (
            {"tensors": {"0.weight": torch.ones(4, 6), "0.bias": torch.ones(4).long()}},
            r"0.bias of shape \(4,\) and torch.int64 instead of floating \(4,\)",
        ),
    ],
)
def test_refuses_files_that_do_not_match(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    save_heads(path, LinearHead(6, 4))
    rewritten(path, **change)
    with pytest.raises(ValueError, match=rf"^load_heads: expected .*file to be .*, got {message}"):
        load_heads(path)


def test_refuses_other_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    torch.save({"0.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"^load_heads: .*, got a file of another format"):
        load_heads(path)
    save_file({"0.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"^load_heads: .*, got the format None"):
        load_heads(path)
    with pytest.raises(FileNotFoundError):
        load_heads(tmp_path / "missing")


def test_refuses_other_modules(tmp_path: Path) -> None:
    message = r"^save_heads: expected heads that are one of LinearHead, .*, got Linear; to store"
    with pytest.raises(TypeError, match=message):
        save_heads(tmp_path / "file", nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"^save_heads: expected at least one head, got none"):
        save_heads(tmp_path / "file")


def test_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for call in (lambda: save_heads(tmp_path / "f", LinearHead(2, 2)), lambda: load_heads("f")):
        with pytest.raises(ImportError, match=r"expected the package safetensors, got none; `pip"):
            call()
