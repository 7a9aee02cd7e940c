"""The features of a pairs table: two stores, and the rows of each pair in them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tables import Pair, positives, read_pairs
from torch import Tensor

from structure_reg import FeatureStore


class Features(NamedTuple):
    """Pairs whose picture and caption both have features, in table order."""

    pairs: list[Pair]
    images: FeatureStore
    texts: FeatureStore
    image_rows: Tensor  # (n,) rows of the store of images
    text_rows: Tensor  # (n,) rows of the store of texts
    ids: Tensor  # (n,) pairs with equal id belong together

    def x(self, layer: str, rows: Tensor) -> Tensor:
        return self.images[layer][self.image_rows[rows]].float()

    def y(self, layer: str, rows: Tensor) -> Tensor:
        return self.texts[layer][self.text_rows[rows]].float()

    def split(self, name: str, captions: str = "all") -> Tensor:
        """Positions of the pairs of a split; captions "first" keeps one for each picture."""
        seen: set[str] = set()
        rows = []
        for row, pair in enumerate(self.pairs):
            if pair.split == name and not (captions == "first" and pair.id in seen):
                seen.add(pair.id)
                rows.append(row)
        return torch.tensor(rows, dtype=torch.long)


def load(data: Mapping[str, Any], root: Path) -> Features:
    """Load the features that the section `data` of the settings names."""
    missing = [key for key in ("pairs", "images", "texts") if not data.get(key)]
    if missing:
        raise SystemExit(f"data: expected {', '.join(missing)}, got none; see configs/default")
    table = read_pairs(root / data["pairs"])
    images, texts = opened(root / data["images"]), opened(root / data["texts"])
    image_row = {id_: row for row, id_ in enumerate(images.ids)}
    text_row = {id_: row for row, id_ in enumerate(texts.ids)}
    found = [
        (pair, image_row[pair.id], text_row[row])
        for row, pair in enumerate(table)
        if pair.id in image_row and row in text_row
    ]
    if not found:
        raise SystemExit(f"{data['images']} and {data['texts']}: expected common pairs, got none")
    pairs, image_rows, text_rows = zip(*found, strict=True)
    ids = positives(pairs, by=data.get("positives", "both"))
    rows = torch.tensor(image_rows), torch.tensor(text_rows)
    return Features(list(pairs), images, texts, *rows, torch.tensor(ids))


def of_set(data: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """The section `data` for another set with the same encoders; None keeps its own set.

    Stores must have the names that extract_features.py uses: features/SET/ENCODER.
    """
    if name is None:
        return dict(data)
    images, texts = (Path(data[side]).name for side in ("images", "texts"))
    return {
        **data,
        "pairs": f"{name}/pairs.csv",
        "images": f"features/{name}/{images}",
        "texts": f"features/{name}/{texts}",
    }


def opened(path: Path) -> FeatureStore:
    if not path.is_dir():
        raise SystemExit(f"{path}: expected a store, got none; extract_features.py makes it")
    return FeatureStore(path)


def numbered_captions(pairs: Sequence[Pair]) -> list[int]:
    """Number the pairs so that those with the same caption share a number."""
    return positives(pairs, by="caption")


def distinct(features: Features, rows: Tensor) -> Tensor:
    """Keep one of the rows that belong together; copies are neighbours for any encoder."""
    first = {
        id_: row
        for row, id_ in zip(rows.tolist()[::-1], features.ids[rows].tolist()[::-1], strict=True)
    }
    return torch.tensor(sorted(first.values()), dtype=torch.long)


def subsample(rows: Tensor, count: int | str, seed: int) -> Tensor:
    """Sample `count` rows; with one seed, a smaller sample is a subset of a larger one."""
    if count == "all":
        return rows
    if not isinstance(count, int) or count < 1:
        raise SystemExit(f"data.train: expected all or a positive number, got {count!r}")
    if count > len(rows):
        raise SystemExit(f"data.train: expected at most {len(rows)} pictures, got {count}")
    shuffled = rows.tolist()
    random.Random(seed).shuffle(shuffled)
    return torch.tensor(sorted(shuffled[:count]), dtype=torch.long)
