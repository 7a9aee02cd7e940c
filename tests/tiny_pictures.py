"""Small pictures: a coloured shape each."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

COLOURS = {
    "red": (220, 30, 30),
    "green": (20, 190, 40),
    "blue": (30, 40, 230),
    "yellow": (240, 220, 20),
    "white": (250, 250, 250),
    "black": (5, 5, 5),
    "grey": (128, 128, 128),
    "purple": (160, 20, 200),
}
SHAPES = ("square", "bar", "post", "frame", "corner")


def picture(path: Path, colour: str, shape: str) -> Path:
    """A coloured shape on a ground that is transparent, or light in a format without alpha."""
    image = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    boxes = {
        "square": (4, 4, 20, 20),
        "bar": (2, 9, 22, 15),
        "post": (9, 2, 15, 22),
        "frame": (2, 2, 22, 22),
        "corner": (2, 12, 12, 22),
    }
    image.paste((*COLOURS[colour], 255), boxes[shape])
    if shape == "frame":
        image.paste((0, 0, 0, 0), (6, 6, 18, 18))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.convert("RGBA" if path.suffix == ".png" else "RGB").save(path)
    return path
