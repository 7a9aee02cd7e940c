"""Load frozen encoders by name: three from packages, or any from Hugging Face or timm.

efficientnet-lite0, vit-s14, minilm      created by prepare_data.py packages
hf:NAME, timm:NAME                       from the hub, or a local folder instead of the name
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import efficientnet
import torch
from pictures import Preprocessing, load_picture
from safetensors.torch import load_file
from torch import Tensor, nn

PACKAGED = ("efficientnet-lite0", "vit-s14", "minilm")
Pool = str | Callable[[Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Encoder:
    """A model with everything that feature extraction needs."""

    name: str
    modality: str  # "image" or "text"
    model: nn.Module
    batch: Callable[[Sequence[Any]], Any]  # paths or captions -> input of the model
    layers: list[str | int]  # all candidates, first to last
    pool: Pool
    preprocessing: dict[str, Any]
    revision: str | None = None


def load(name: str, modality: str, *, root: Path, fit: str, revision: str | None = None) -> Encoder:
    """Load an encoder by name, in eval mode, with its usual pooling."""
    if name in PACKAGED:
        folder = root / "models" / name
        if not folder.is_dir():
            raise SystemExit(
                f"{folder}: expected the encoder, got no folder; prepare_data.py packages makes it"
            )
        if name == "efficientnet-lite0":
            return efficientnet_lite0(folder, fit)
        source = str(folder)
    elif name.startswith(("hf:", "timm:")):
        library, source = name.split(":", 1)
        if folder := local(source):
            source = str(folder)
            name = f"{library}:{source}"  # the same name from wherever it was called
        if library == "timm":
            return of_timm(name, source, fit, revision)
    else:
        raise SystemExit(
            f"{name}: expected one of {', '.join(PACKAGED)}, hf:NAME or timm:NAME as encoder"
        )
    make = image_of_hugging_face if modality == "image" else text_of_hugging_face
    return make(name, source, fit, revision)


def local(source: str) -> Path | None:
    """The folder that a source names, if there is one; a shell leaves the ~ of hf:~/NAME."""
    folder = Path(source).expanduser()
    return folder.resolve() if folder.is_dir() else None


def source_of(name: str) -> str:
    """Name of an encoder without hf: or timm:, and that of a local folder without its parents."""
    if not name.startswith(("hf:", "timm:")):
        return name
    source = name.split(":", 1)[1]
    return folder.name if (folder := local(source)) else source.strip("/")


def patches(x: Tensor, mask: Tensor | None, *, prefix: int = 1) -> Tensor:  # noqa: ARG001
    """Mean over the patches of a vision transformer, without class token and registers."""
    return x[:, prefix:].float().mean(1)


# %% From packages
def efficientnet_lite0(folder: Path, fit: str) -> Encoder:
    model = efficientnet.load(load_file(folder / "model.safetensors"))
    # TensorFlow computes (x - 127) / 128 on bytes.
    how = Preprocessing(fit, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
    layers: list[str | int] = ["stem", *(f"_blocks.{number}" for number in range(16)), "head"]
    return of_pictures("efficientnet-lite0", model, layers, "mean", how, None)


def of_pictures(
    name: str,
    model: nn.Module,
    layers: list[str | int],
    pool: Pool,
    how: Preprocessing,
    revision: str | None,
) -> Encoder:
    def batch(paths: Sequence[Path]) -> Tensor:
        return torch.stack([load_picture(path, how) for path in paths])

    facts = how._asdict() | {"resample": int(how.resample)}
    return Encoder(name, "image", model.eval(), batch, layers, pool, facts, revision)


# %% Hugging Face
def config_of(source: str, file: str, revision: str | None) -> dict[str, Any]:
    """Read a JSON file of a model from a local folder or the hub; empty if there is none."""
    from transformers.utils import cached_file

    path = cached_file(source, file, revision=revision, _raise_exceptions_for_missing_entries=False)
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def of_hub(source: str, revision: str | None, half: str) -> Any:
    """Load the model; for CLIP models, load one half with its projection."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source, revision=revision)
        kind = transformers.AutoModel
        if config.model_type == "clip":
            kind = getattr(transformers, f"CLIP{half}ModelWithProjection")
        return kind.from_pretrained(source, revision=revision, dtype=torch.float32)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise SystemExit(f"{source}: expected a model of Hugging Face, got: {said}") from None


def numbered(model: Any, *after: str) -> list[str | int]:
    """All hidden states, and those of the given later modules that the model has."""
    config = getattr(model.config, "vision_config", None) or model.config
    config = getattr(config, "text_config", None) or config
    blocks: int = getattr(config, "num_hidden_layers", None) or len(config.depths)
    states: list[str | int] = list(range(blocks + 1))
    modules = dict(model.named_modules())
    return states + [name for name in after if name in modules]


def image_of_hugging_face(name: str, source: str, fit: str, revision: str | None) -> Encoder:
    model = of_hub(source, revision, "Vision")
    layers = numbered(model, "layernorm", "post_layernorm", "visual_projection")
    how = preprocessing_of(config_of(source, "preprocessor_config.json", revision), fit)
    pool: Pool = patches if name == "vit-s14" else "cls"
    encoder = of_pictures(name, model, layers, pool, how, revision)

    def batch(paths: Sequence[Path]) -> dict[str, Tensor]:
        return {"pixel_values": encoder.batch(paths)}

    return Encoder(
        name, "image", encoder.model, batch, layers, pool, encoder.preprocessing, revision
    )


def preprocessing_of(config: dict[str, Any], fit: str) -> Preprocessing:
    """Read a preprocessor_config.json, in either of its two layouts."""
    usual = Preprocessing(fit)

    def side(value: Any, otherwise: int) -> int:
        if isinstance(value, dict):
            value = value.get("shortest_edge") or value.get("height")
        return int(value or otherwise)

    resize = side(config.get("size"), usual.resize)
    size = side(config.get("crop_size"), resize) if config.get("do_center_crop", True) else resize
    mean, std = (
        tuple(config.get(key) or default)
        for key, default in (("image_mean", usual.mean), ("image_std", usual.std))
    )
    return Preprocessing(fit, size, max(size, resize), config.get("resample", 3), mean, std)


def text_of_hugging_face(name: str, source: str, fit: str, revision: str | None) -> Encoder:  # noqa: ARG001
    from transformers import AutoTokenizer

    model = of_hub(source, revision, "Text")
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    longest = min(tokenizer.model_max_length, 64 if name == "minilm" else 512)

    def batch(captions: Sequence[str]) -> dict[str, Tensor]:
        return dict(
            tokenizer(
                list(captions),
                padding=True,
                truncation=True,
                max_length=longest,
                return_tensors="pt",
                return_token_type_ids=False,
            )
        )

    layers = numbered(model, "final_layer_norm", "text_projection")
    facts = {"tokens": longest}
    return Encoder(name, "text", model.eval(), batch, layers, "mean", facts, revision)


# %% timm
def of_timm(name: str, source: str, fit: str, revision: str | None) -> Encoder:
    try:
        import timm
    except ImportError as error:  # also where its torchvision does not fit this torch
        raise SystemExit(f"{name}: expected timm to be installed, got: {error}") from None
    local = Path(source).is_dir()
    where = f"local-dir:{source}" if local else source
    model = timm.create_model(where, pretrained=True, num_classes=0)
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][-1]
    resample = {"bilinear": 2, "bicubic": 3}.get(config["interpolation"], 3)
    how = Preprocessing(
        fit, size, round(size / config["crop_pct"]), resample, config["mean"], config["std"]
    )
    example = torch.zeros(1, *config["input_size"])
    blocks = model.eval().forward_intermediates(example, intermediates_only=True)
    after = [name for name in ("norm",) if name in dict(model.named_modules())]
    pool = "cls" if getattr(model, "cls_token", None) is not None else "mean"
    return of_pictures(name, model, [*range(len(blocks)), *after], pool, how, revision)
