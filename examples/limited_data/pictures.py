"""Load a picture as a tensor with Pillow only: torchvision has no build for every torch."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

MARGIN = 1.06  # side of the square, relative to that of the drawing
FITS = ("contain", "crop")


class Preprocessing(NamedTuple):
    """How a picture is preprocessed; the manifest of its features records this.

    fit "contain" shows the whole drawing: its opaque part on a white square with a margin. "crop"
    is for photographs: the shorter side is resized to `resize` pixels, and the centre is cropped.
    """

    fit: str = "contain"
    size: int = 224
    resize: int = 256
    resample: int = Image.Resampling.BICUBIC
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


def load_picture(path: Path, how: Preprocessing) -> Tensor:
    """Load a picture as a float32 tensor of shape (3, size, size)."""
    try:
        with Image.open(path) as file:
            image = contained(file, how) if how.fit == "contain" else cropped(file, how)
    except OSError as error:
        raise SystemExit(f"{path}: expected a picture, got {error}") from None
    pixels = torch.from_numpy(np.asarray(image, np.uint8).copy()).permute(2, 0, 1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return (pixels / 255 - mean) / std


def contained(image: Image.Image, how: Preprocessing) -> Image.Image:
    image = image.convert("RGBA")
    box = image.getchannel("A").getbbox()
    if box:
        image = image.crop(box)
    side = round(max(image.size) * MARGIN)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB").resize((how.size, how.size), how.resample)


def cropped(image: Image.Image, how: Preprocessing) -> Image.Image:
    image.draft("RGB", (2 * how.resize, 2 * how.resize))  # JPEG: decode no more than needed
    image = image.convert("RGB")
    scale = how.resize / min(image.size)
    image = image.resize(
        [max(how.resize, round(side * scale)) for side in image.size], how.resample
    )
    left, top = ((side - how.size) // 2 for side in image.size)
    return image.crop((left, top, left + how.size, top + how.size))
