"""Heads on the Hub: both files of a folder, and what is uploaded of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from contract import normal
from fake_hub import FakeApi, cached
from torch import nn

import structure_reg as sr

X, Y = normal(12, 6, seed=0, dtype=torch.float32), normal(12, 5, seed=1, dtype=torch.float32)
PAIRS: dict[str, tuple[nn.Module, ...]] = {
    "trained": (sr.ResidualHead(6, 4), sr.GatedHead(5, 4)),
    "cca": sr.fit_cca(X, Y, dim=3),
    "csa": sr.fit_csa(X, Y, dim=3),
    "asif": sr.fit_asif(X, Y, k=5),
}


def after_the_code_of(card: str, **given: Any) -> dict[str, Any]:
    (code,) = re.findall(r"^```python\n(.*?)\n```$", card, re.MULTILINE | re.DOTALL)
    exec(code, given)
    return given


@pytest.mark.parametrize("name", PAIRS)
def test_the_code_of_the_card_loads_the_pair(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head_x, head_y = (head.eval() for head in PAIRS[name])
    sr.save_pretrained_heads(tmp_path / "pair", head_x, head_y)
    monkeypatch.chdir(tmp_path)
    found = after_the_code_of(Path("pair", "README.md").read_text(encoding="utf-8"), x=X, y=Y)
    assert torch.equal(found["z_x"], head_x(X))
    assert torch.equal(found["z_y"], head_y(Y))


@pytest.mark.parametrize("count", [1, 3])
def test_other_numbers_of_heads(
    count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = [sr.LinearHead(6, 4) for _ in range(count)]
    sr.save_pretrained_heads(tmp_path / "heads", *heads, encoders=["e"] * count)
    monkeypatch.chdir(tmp_path)
    card = Path("heads", "README.md").read_text(encoding="utf-8")
    for z, head in zip(after_the_code_of(card, features=[X] * count)["z"], heads, strict=True):
        assert torch.equal(z, head(X))


def test_the_card_says_what_the_heads_are(tmp_path: Path) -> None:
    sr.save_pretrained_heads(
        tmp_path,
        *PAIRS["trained"],
        encoders=("owner/vision", "owner/text"),
        layers=("block 9", "a|b"),
        data="owner/pairs",
        scores={"recall": 0.5},
        license="mit",
    )
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    for line in (
        "# owner/vision and owner/text, aligned",
        "| Encoder | owner/vision | owner/text |",
        r"| Layers | block 9 | a\|b |",
        "| Columns | 6 | 5 |",
        "| Outputs | 4 | 4 |",
        "| Head | ResidualHead | GatedHead |",
        "- Data: owner/pairs",
        "| recall | 0.5 |",
    ):
        assert line in card.splitlines()
    data = huggingface_hub.ModelCard(card).data
    assert data.base_model == ["owner/vision", "owner/text"]
    assert data.datasets == ["owner/pairs"]


def test_what_is_pushed_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi(tmp_path / "uploaded")
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    pair = PAIRS["cca"]
    address = sr.push_heads_to_hub("you/pair", *pair, layers=("a", "b"), private=False)
    assert address == "https://huggingface.co/you/pair/commit/0"
    assert api.calls["create_repo"]["private"] is False
    assert api.calls["upload_folder"]["commit_message"] == "Add heads"
    assert "load_pretrained_heads('you/pair')" in (api.folder / "README.md").read_text("utf-8")
    cached(api.folder / "model.safetensors", tmp_path / "cache", "you/pair", "main")
    for source in (api.folder, "you/pair"):
        loaded = sr.load_pretrained_heads(source, cache_dir=tmp_path / "cache")
        for head, again, x in zip(pair, loaded, (X, Y), strict=True):
            assert torch.equal(head(x), again(x))


@pytest.mark.parametrize(
    ("heads", "about", "error", "message"),
    [
        ((), {}, ValueError, "at least one head"),
        ((nn.Linear(2, 2),), {}, TypeError, "heads that are one of"),
        (PAIRS["cca"], {"layers": ("a",)}, ValueError, "2 layers, one for each head, got 1"),
        (PAIRS["cca"], {"layers": (1, 2)}, TypeError, "layers to be strings, got int and int"),
        (PAIRS["cca"], {"encoders": "ab"}, TypeError, "encoders to be a sequence of strings"),
    ],
)
def test_what_is_refused(
    heads: Any, about: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=f"^save_pretrained_heads: expected {message}"):
        sr.save_pretrained_heads(tmp_path / "pair", *heads, **about)
    assert not (tmp_path / "pair").exists()


def test_other_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"^load_pretrained_heads: expected a folder with"):
        sr.load_pretrained_heads(tmp_path)
    sr.Aligner(head="cca").fit(X, Y).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"to be what save_heads wrote, got the format"):
        sr.load_pretrained_heads(tmp_path)
