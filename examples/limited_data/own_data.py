"""Make a pairs table from data that you have: COCO, Flickr30k, classes, any table."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from splits import with_splits
from tables import Pair, check_columns, listed, write_pairs

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
KARPATHY = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_json(path: Path, *keys: str) -> dict[str, Any]:
    """Read a JSON object that has these keys."""
    if not path.is_file():
        raise SystemExit(f"{path}: expected a JSON file, got none")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SystemExit(f"{path}: expected JSON, got {error}") from None
    missing = [key for key in keys if key not in content]
    if missing:
        raise SystemExit(f"{path}: expected the keys {listed(missing)}, got {listed(content)}")
    return content


def placed(folder: Path, *candidates: str) -> Path:
    """The first candidate that is in the folder, or the last one if none is."""
    return next(
        (p for name in candidates if (p := folder / name).is_file()), folder / candidates[-1]
    )


def karpathy(path: Path, images: Path, *, prefix: str) -> Iterator[Pair]:
    """Yield pairs in the splits of Karpathy and Li, CVPR 2015, for COCO or Flickr30k."""
    for image in read_json(path, "images")["images"]:
        name, folder = image["filename"], image.get("filepath", ".")
        picture = placed(images, f"{folder}/{name}", name)
        for sentence in image["sentences"]:
            identity = f"{prefix}/{Path(name).stem}"
            yield Pair(picture, tidy(sentence["raw"]), identity, identity, KARPATHY[image["split"]])


def tidy(caption: str) -> str:
    return " ".join(caption.split())


def coco(annotations: Path | None, images: Path, folder: Path, *, split_file: Path | None) -> None:
    """Read COCO's files, with its validation set as test, or Karpathy's 5,000 and 5,000 split."""
    if split_file is not None:
        return write_pairs(folder / "pairs.csv", list(karpathy(split_file, images, prefix="coco")))
    if annotations is None:
        raise SystemExit("coco: expected --annotations or --karpathy, got neither")
    pairs = []
    for split, part in (("train", "train"), ("test", "val")):
        found = sorted(annotations.glob(f"captions_{part}*.json"))
        if len(found) != 1:
            raise SystemExit(
                f"{annotations}: expected one file captions_{part}*.json, "
                f"got {listed(path.name for path in found) or 'none'}"
            )
        content = read_json(found[0], "images", "annotations")
        year = found[0].stem.removeprefix("captions_")
        pictures = {
            image["id"]: placed(images, image["file_name"], f"{year}/{image['file_name']}")
            for image in content["images"]
        }
        # The file lists captions in order of creation; sorting groups those of one picture.
        for one in sorted(content["annotations"], key=lambda one: (one["image_id"], one["id"])):
            identity = f"coco/{one['image_id']}"
            picture = pictures[one["image_id"]]
            pairs.append(Pair(picture, tidy(one["caption"]), identity, identity, split))
    return write_pairs(folder / "pairs.csv", pairs)


def flickr30k(captions: Path, images: Path, folder: Path, *, straddle: bool = False) -> None:
    """Read Karpathy's JSON with its splits, or results.csv or .token, which have none."""
    if captions.suffix == ".json":
        pairs = list(karpathy(captions, images, prefix="flickr"))
        return write_pairs(folder / "pairs.csv", pairs)
    if not captions.is_file():
        raise SystemExit(f"{captions}: expected a file of captions, got none")
    lines = captions.read_text(encoding="utf-8").splitlines()
    if "|" in lines[0]:  # image_name| comment_number| comment
        cells = [[cell.strip() for cell in line.split("|", 2)] for line in lines[1:]]
        found = [(cell[0], cell[-1]) for cell in cells if len(cell) == 3]
    else:  # 1000092795.jpg#0, a tab, the caption
        cells = [line.split("\t", 1) for line in lines if line.strip()]
        found = [(cell[0].split("#")[0], cell[-1]) for cell in cells if len(cell) == 2]
    if len(found) < len(cells):
        raise SystemExit(
            f"{captions}: expected lines 'picture|number|caption' or 'picture#number<TAB>caption', "
            f"got {len(cells) - len(found)} others"
        )
    print(f"{captions}: the file has no splits; pictures are split by a checksum of their names")
    pairs = []
    for name, caption in found:
        identity = f"flickr/{Path(name).stem}"
        pairs.append(Pair(images / name, tidy(caption), identity, identity, ""))
    pairs = with_splits(pairs, straddle=straddle, validation=4, test=4)
    return write_pairs(folder / "pairs.csv", pairs)


def image_folder(
    images: Path, folder: Path, *, split: str, template: str = "a photo of a {label}"
) -> None:
    """Read one class per folder; its name is the group and fills the caption template."""
    if not images.is_dir():
        raise SystemExit(f"{images}: expected a folder of classes, got none")
    if "{label}" not in template:
        raise SystemExit(f"image-folder: expected '{{label}}' in the template, got {template!r}")
    pairs = []
    for kind in sorted(path for path in images.iterdir() if path.is_dir()):
        label = kind.name.replace("_", " ")
        for picture in sorted(kind.rglob("*")):
            if picture.suffix.lower() in PICTURES:
                identity = picture.relative_to(images).as_posix()
                caption = template.format(label=label)
                pairs.append(Pair(picture, caption, identity, label, split))
    if not pairs:
        raise SystemExit(f"{images}: expected pictures in folders of classes, got none")
    write_pairs(folder / "pairs.csv", pairs)


def table(
    path: Path,
    images: Path | None,
    folder: Path,
    columns: Mapping[str, str],
    *,
    straddle: bool = False,
) -> None:
    """Read any table with a path and a caption, or a list of captions, per line.

    A missing id is the path. A missing group joins rows with the same id, caption or picture, and a
    missing split is derived from a checksum of the group. Captions and pictures that occur in
    several groups get one split too, unless `straddle`. Given splits stay.
    """
    rows, names = read_table(path)
    asked = [name for column, name in columns.items() if name != column]
    check_columns(path, dict.fromkeys([columns["path"], columns["caption"], *asked]), names)
    images, pairs = images or path.parent, []
    for number, row in enumerate(rows, 1):
        name, identity, group, split = (
            cell(row.get(columns[column])) for column in ("path", "id", "group", "split")
        )
        captions = row[columns["caption"]]
        for caption in captions if isinstance(captions, list) else [captions]:
            if not (name and cell(caption)):
                raise SystemExit(
                    f"{path}: expected a picture and a caption in every row, got none in "
                    f"row {number}"
                )
            pairs.append(Pair(images / name, tidy(cell(caption)), identity or name, group, split))
    strange = {pair.split for pair in pairs} - {"train", "val", "test", ""}
    if strange:
        raise SystemExit(f"{path}: expected splits train, val and test, got {listed(strange)}")
    write_pairs(folder / "pairs.csv", with_splits(pairs, straddle=straddle))


def cell(value: Any) -> str:
    """Text of a cell; empty where it is missing, which is None or NaN in parquet."""
    return "" if value is None or value != value else str(value).strip()


def read_table(path: Path) -> tuple[list[dict[str, Any]], Iterable[str]]:
    if not path.is_file():
        raise SystemExit(f"{path}: expected a table, got none")
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet  # needed for this format only
        except ModuleNotFoundError:
            raise SystemExit(f"{path}: expected pyarrow to be installed, got none") from None
        content = parquet.read_table(path)
        return content.to_pylist(), content.column_names
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        return list(reader), reader.fieldnames or ()
