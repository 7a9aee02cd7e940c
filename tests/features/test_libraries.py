"""Hugging Face and timm models need no extra code; the tests build tiny ones from a config."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract import normal
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

from structure_reg import extract_features

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def bert() -> nn.Module:
    torch.manual_seed(0)
    return BertModel(BertConfig(vocab_size=50, **SMALL))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return GPT2Model(GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def vit() -> nn.Module:
    torch.manual_seed(0)
    return ViTModel(ViTConfig(image_size=16, patch_size=8, **SMALL))


LENGTHS = (3, 7, 5, 1)


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(1, 50, (length,), generator=generator) for length in LENGTHS]


def padded(side: str, length: int = 9) -> dict[str, Tensor]:
    tokens, mask = (torch.zeros(len(LENGTHS), length, dtype=torch.long) for _ in range(2))
    for i, text in enumerate(texts()):
        place = slice(0, len(text)) if side == "right" else slice(length - len(text), length)
        tokens[i, place], mask[i, place] = text, 1
    # Without position ids, left padding shifts the positions and changes the features.
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


@pytest.mark.parametrize("make", [bert, gpt2])
@pytest.mark.parametrize("pool", ["cls", "mean", "last"])
def test_texts_have_the_features_of_each_alone(make: Callable[[], nn.Module], pool: str) -> None:
    model = make()
    take = {"cls": lambda x: x[0], "mean": lambda x: x.mean(0), "last": lambda x: x[-1]}[pool]
    model.eval()
    with torch.no_grad():
        alone = [model(t[None], output_hidden_states=True).hidden_states for t in texts()]
    model.train()
    for side in ("right", "left"):
        features = extract_features(model, [padded(side)], layers="all", pool=pool)
        assert list(features) == ["hidden_states.0", "hidden_states.1", "hidden_states.2"]
        for number, x in enumerate(features.values()):
            expected = torch.stack([take(states[number][0]) for states in alone])
            torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)
    assert model.training


def test_layers_by_number_by_name_and_by_module() -> None:
    model, batch = bert(), padded("right")
    wanted: list[str | int] = [-1, "encoder.layer.0", "hidden_states.1", 0, "pooler"]
    features = extract_features(model, [batch], layers=wanted, pool="mean")
    names = ["hidden_states.2", "encoder.layer.0", "hidden_states.1", "hidden_states.0", "pooler"]
    assert list(features) == names
    torch.testing.assert_close(features["encoder.layer.0"], features["hidden_states.1"])
    assert torch.equal(
        features["pooler"],
        extract_features(model, [batch], layers=["pooler"], pool="last")["pooler"],
    )
    # The returned names are valid layers, as the second of two passes needs.
    again = extract_features(model, [batch, batch], layers=list(features), pool="mean")
    assert all(torch.equal(again[name], torch.cat([x, x])) for name, x in features.items())


def test_images() -> None:
    model, x = vit(), normal(3, 3, 16, 16, seed=0, dtype=torch.float32)
    features = extract_features(model, [{"pixel_values": x}], layers=[-1, "layernorm"], pool="cls")
    by_position = extract_features(model, [x], layers="all", pool="cls")
    model.eval()
    with torch.no_grad():
        last = model(x).last_hidden_state[:, 0]
    torch.testing.assert_close(features["layernorm"], last)
    # As the docs warn, a ViT's last hidden state comes before its final norm.
    assert not torch.allclose(features["hidden_states.2"], last, atol=1e-3)
    assert torch.equal(by_position["hidden_states.2"], features["hidden_states.2"])


def test_maps_of_a_convolutional_network() -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    model, x = ResNetModel(config), normal(2, 3, 32, 32, seed=0, dtype=torch.float32)
    features = extract_features(model, [x], layers="all", pool="mean")
    model.eval()
    with torch.no_grad():
        maps = model(x, output_hidden_states=True).hidden_states
    assert len(features) == len(maps) == 3
    for x, expected in zip(features.values(), maps, strict=True):
        torch.testing.assert_close(x, expected.mean((2, 3)))


def test_of_two_towers_one_has_to_be_passed() -> None:
    model = CLIPModel(
        CLIPConfig(
            text_config={"vocab_size": 50, **SMALL},
            vision_config={"image_size": 16, "patch_size": 8, **SMALL},
        )
    )
    batch = {**padded("right"), "pixel_values": torch.randn(len(LENGTHS), 3, 16, 16)}
    with pytest.raises(ValueError, match=r"CLIPModel to return hidden_states, got CLIPOutput; if"):
        extract_features(model, [batch], layers="all", pool="mean")
    features = extract_features(model.text_model, [padded("left")], layers="all", pool="last")
    assert [tuple(x.shape) for x in features.values()] == [(4, 16)] * 3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([3], r"an index of hidden_states from -3 to 2, got 3$"),
        ([-4], r"an index of hidden_states from -3 to 2, got -4$"),
        ([2, -1], r"each layer once, got 'hidden_states.2' twice$"),
        ([1, "hidden_states.1"], r"each layer once, got 1 twice$"),
        (
            ["encoder.layers.0"],
            r"the name of a module in BertModel, got .*; the closest names are 'encoder.layer.0', ",
        ),
        (["intermediates.0"], r"the name of a module in BertModel, got 'intermediates.0'"),
    ],
)
def test_refuses_numbers_that_are_not_there(layers: list[str | int], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^extract_features: expected {message}"):
        extract_features(bert(), [padded("right")], layers=layers, pool="mean")


class LikeTimm(nn.Module):
    """The protocol of timm 1.0.31: maps without the prefix tokens, which come on request.

    timm needs torchvision, which has no build beside a CPU torch from PyPI. With both installed,
    `test_timm` below runs as well.
    """

    def __init__(self, has_class: bool = True, returns_prefix: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8)) if has_class else None
        self.reg_token = nn.Parameter(torch.randn(1, 4, 8))
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.drop = nn.Dropout(0.5)
        if not returns_prefix:
            self.forward_intermediates = self.maps_alone  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_intermediates(x)[-1].mean((2, 3))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: list[int] | None = None,  # noqa: ARG002
        return_prefix_tokens: bool = False,
        intermediates_only: bool = True,  # noqa: ARG002
    ) -> list[Any]:
        x = self.patch(x)  # (B, 8, H, W)
        b, _, h, w = x.shape
        tokens = [t for t in (self.cls_token, self.reg_token) if t is not None]
        prefix = torch.cat(tokens, 1).expand(b, -1, -1)
        n = prefix.shape[1]
        x = torch.cat([prefix, x.flatten(2).mT], 1)
        outputs: list[Any] = []
        for block in self.blocks:
            x = x + self.drop(block(x).relu())
            places = x[:, n:].mT.reshape(b, -1, h, w)
            outputs.append((places, x[:, :n]) if return_prefix_tokens else places)
        return outputs

    def maps_alone(self, x: Tensor, intermediates_only: bool = True) -> list[Any]:
        return LikeTimm.forward_intermediates(self, x, intermediates_only=intermediates_only)


def test_timm_protocol() -> None:
    model, x = LikeTimm(), normal(2, 3, 8, 12, seed=0, dtype=torch.float32)
    mean = extract_features(model, [x], layers="all", pool="mean")
    cls = extract_features(model, [x], layers=[-1, "intermediates.0"], pool="cls")
    model.eval()
    with torch.no_grad():
        maps, tokens = zip(*model.forward_intermediates(x, return_prefix_tokens=True), strict=True)
    assert list(mean) == ["intermediates.0", "intermediates.1", "intermediates.2"]
    assert list(cls) == ["intermediates.2", "intermediates.0"]
    for number, features in enumerate(mean.values()):
        torch.testing.assert_close(features, maps[number].mean((2, 3)))
    torch.testing.assert_close(cls["intermediates.2"], tokens[2][:, 0])
    torch.testing.assert_close(cls["intermediates.0"], tokens[0][:, 0])
    hooked = extract_features(model, [x], layers=["blocks.1", 1], pool="mean")
    assert list(hooked) == ["blocks.1", "intermediates.1"]


@pytest.mark.parametrize("model", [LikeTimm(has_class=False), LikeTimm(returns_prefix=False)])
def test_a_timm_model_without_a_class_token_has_none_to_give(model: nn.Module) -> None:
    x = normal(2, 3, 8, 8, seed=0, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"pool='mean' or a function for maps .*, got 'cls' for"):
        extract_features(model, [x], layers="all", pool="cls")


def test_timm() -> None:
    timm = pytest.importorskip("timm", exc_type=ImportError)
    x = normal(2, 3, 32, 32, seed=0, dtype=torch.float32)
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=3)
    cls = extract_features(vit, [x], layers="all", pool="cls")
    by_hook = extract_features(vit, [x], layers=["blocks.2"], pool="cls")
    torch.testing.assert_close(cls["intermediates.2"], by_hook["blocks.2"])
    mean = extract_features(vit, [x], layers=[2, "blocks.2"], pool="mean")
    vit.eval()
    with torch.no_grad():
        places = vit.forward_intermediates(x, intermediates_only=True)[2]
    torch.testing.assert_close(mean["intermediates.2"], places.mean((2, 3)))
    registers = timm.create_model("vit_medium_patch16_reg4_gap_256", img_size=32, depth=1)
    with pytest.raises(ValueError, match="got 'cls' for shape"):
        extract_features(registers, [x], layers="all", pool="cls")
    resnet = timm.create_model("resnet10t")
    assert len(extract_features(resnet, [x], layers="all", pool="mean")) == 5
