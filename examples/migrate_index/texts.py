"""Titles and descriptions of Debian's packages, and their vectors.

The texts come from the index of translations that apt downloads.

On Debian and Ubuntu, `apt-get update` brings the file unless `Acquire::Languages` is "none", as in
most containers; `apt-get update -o Acquire::Languages=en` brings it there. Elsewhere, any mirror
has it as dists/RELEASE/main/i18n/Translation-en.xz.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from migration import Vectors

LISTS = Path("/var/lib/apt/lists")
APT_HELPER = "/usr/lib/apt/apt-helper"  # reads lz4, in which apt stores its lists
OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".bz2": bz2.open, ".gz": gzip.open}


class Text(NamedTuple):
    package: str
    title: str  # one line, used as a query
    description: str  # a few lines, stored in the index


def translation_file() -> Path:
    """The largest English index of this machine: that of the main archive."""
    files = sorted(LISTS.glob("*_Translation-en*"), key=lambda file: file.stat().st_size)
    if not files:
        raise SystemExit(
            f"{LISTS}: expected a file *_Translation-en, got none; run apt-get update "
            "-o Acquire::Languages=en, or pass --translation FILE"
        )
    return files[-1]


def content(path: Path) -> str:
    """The text of the index, unpacked."""
    if path.suffix == ".lz4":
        command = [APT_HELPER, "cat-file", str(path)]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode()
    with OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8") as stream:
        return str(stream.read())


def records(index: str) -> Iterator[Text]:
    """One text per paragraph of the index; a line with a dot alone is an empty line."""
    for paragraph in index.split("\n\n"):
        package = title = ""
        lines = []
        for line in paragraph.splitlines():
            if line.startswith(" "):
                lines += [line.strip()] if line != " ." else []
            elif line.startswith("Package: "):
                package = line.removeprefix("Package: ")
            elif line.startswith("Description-en: "):
                title = line.removeprefix("Description-en: ")
        yield Text(package, title, " ".join(lines))


def distinct(texts: Iterator[Text]) -> list[Text]:
    """Texts of some length, one per title and per start of a description.

    The packages that are built from one source share both, and a query has one right answer only
    if no other text answers it as well.
    """
    packages: set[str] = set()
    titles: set[str] = set()
    starts: set[str] = set()
    kept = []
    for text in texts:
        start = text.description[:200]
        known = text.package in packages or text.title in titles or start in starts
        packages.add(text.package)
        if text.title and len(text.description) >= 40 and not known:
            titles.add(text.title)
            starts.add(start)
            kept.append(text)
    return kept


def sample(path: Path, count: int, seed: int = 0) -> list[Text]:
    """Distinct texts in random order."""
    texts = distinct(records(content(path)))
    if len(texts) < count:
        raise SystemExit(f"{path}: expected {count} distinct texts, got {len(texts)}")
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]


def vectors(folder: Path, model: str) -> Vectors:
    """Read what embed.py wrote of a model: descriptions as texts, and titles as queries."""
    files = (folder / f"{model}.{field}.npy" for field in ("descriptions", "titles"))
    return Vectors(*(torch.from_numpy(np.load(file)).float() for file in files))
