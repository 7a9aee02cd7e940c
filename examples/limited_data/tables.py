"""The pairs table, a CSV that lists which picture and which caption belong together.

Each line is a pair, with the columns path, caption, id, group, split. Lines with the same id show
the same picture, so a picture with five captions has five lines. Lines of one group stay in one
split: the group is the concept for clip art and the label for classes. Where the splits are ours,
lines with equal captions or pictures stay in one split too, see splits.py. Paths are relative to
the table's folder.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

SPLITS = ("train", "val", "test")
COLUMNS = ("path", "caption", "id", "group", "split")
SHOWN = 5  # names listed in a message


class Pair(NamedTuple):
    path: Path
    caption: str
    id: str
    group: str
    split: str


def listed(names: Iterable[object]) -> str:
    """List the first names, and the number of the others."""
    texts = [str(name) for name in names]
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return ", ".join(texts[:SHOWN]) + more


def write_pairs(table: Path, pairs: Sequence[Pair]) -> None:
    """Write a complete table or none; every picture must exist."""
    if not pairs:
        raise SystemExit(f"{table}: expected at least one pair, got none")
    missing = [path for path in dict.fromkeys(pair.path for pair in pairs) if not path.is_file()]
    if missing:
        raise SystemExit(f"{table}: expected every picture to be there, got no {listed(missing)}")
    table.parent.mkdir(parents=True, exist_ok=True)
    folder, draft = table.parent.resolve(), table.with_suffix(".tmp")
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for pair in pairs:
            path = pair.path.resolve()
            inside = path.is_relative_to(folder)
            writer.writerow([path.relative_to(folder) if inside else path, *pair[1:]])
    draft.replace(table)
    count = Counter(pair.split for pair in pairs)
    pictures = len({pair.id for pair in pairs})
    sizes = ", ".join(f"{count[split]} {split}" for split in SPLITS if count[split])
    print(f"{table}: {len(pairs)} pairs of {pictures} pictures ({sizes})")
    for what, rows in straddling(pairs).items():
        if rows:
            print(f"{table}: warning: {rows} rows have a {what} that is also in another split")


def straddling(pairs: Sequence[Pair]) -> dict[str, int]:
    """Number of rows whose caption, and whose picture, also occurs in another split."""
    keys: dict[str, list[Hashable]] = {
        "caption": [spelled(pair.caption) for pair in pairs],
        "picture": [pair.path.resolve() for pair in pairs],
    }
    rows = {}
    for what, values in keys.items():
        splits: dict[Hashable, set[str]] = {}
        for value, pair in zip(values, pairs, strict=True):
            splits.setdefault(value, set()).add(pair.split)
        rows[what] = sum(len(splits[value]) > 1 for value in values)
    return rows


def spelled(caption: str) -> str:
    """A caption as compared with others: without regard to case and spaces."""
    return " ".join(caption.casefold().split())


def read_pairs(table: Path) -> list[Pair]:
    """Read a table; a missing column is an error."""
    if not table.is_file():
        raise SystemExit(f"{table}: expected a pairs table, got none; prepare_data.py makes it")
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        check_columns(table, COLUMNS, reader.fieldnames or ())
        return [
            Pair(table.parent / row["path"], *(row[column] for column in COLUMNS[1:]))
            for row in reader
        ]


def check_columns(table: Path, wanted: Iterable[str], there: Iterable[str]) -> None:
    there = list(there)
    missing = [column for column in wanted if column not in there]
    if missing:
        raise SystemExit(
            f"{table}: expected the columns {listed(missing)}, got {listed(there) or 'none'}"
        )


def split_of(group: str, *, validation: int = 10, test: int = 35) -> str:
    """Split of a group; sizes in percent of groups, equal in every set and on every machine."""
    place = crc32(group.encode()) % 100
    return "test" if place < test else "val" if place < test + validation else "train"


def numbered(values: Iterable[Hashable]) -> list[int]:
    """Number the distinct values 0, 1, 2, ... in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def positives(pairs: Sequence[Pair], *, by: str = "both") -> list[int]:
    """Number the pairs so that those that belong together, in losses and retrieval, share one.

    Pairs belong together by "image", by "caption" or by "both": "both" joins all pairs that a chain
    of equal pictures and equal captions connects.
    """
    images = numbered(pair.id for pair in pairs)
    captions = numbered(pair.caption for pair in pairs)
    if by != "both":
        return {"image": images, "caption": captions}[by]
    return joined(images, captions)


def joined(*keys: Sequence[Hashable]) -> list[int]:
    """Number the rows so that those that a chain of equal values in any key connects share one."""
    parent: dict[Hashable, Hashable] = {}

    def root(node: Hashable) -> Hashable:
        while (above := parent.setdefault(node, node)) != node:
            parent[node] = node = parent[above]
        return node

    rows = [list(enumerate(values)) for values in zip(*keys, strict=True)]  # a value in its key
    for first, *others in rows:
        for other in others:
            parent[root(other)] = root(first)
    return numbered(root(row[0]) for row in rows)
