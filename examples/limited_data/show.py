"""Show what a run finds: a page of the pictures found for a text, and the texts for a picture.

    python show.py outputs/default
    python show.py outputs/default --queries 30 --results 10

Reads the runs written by train_alignment.py. Writes found.html into each run, for the set and the
split that its settings evaluate. Queries are drawn at random, the same ones for every run, so
failures are shown as often as they occur. A page contains its pictures: it is one file, which opens
without the data and without a network.
"""

from __future__ import annotations

import argparse
import base64
import functools
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import evaluate
import features
import torch
from features import Features
from pictures import Preprocessing, contained
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from structure_reg import search

SIDE = 96  # of a picture on the page, in pixels
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 15px/1.4 sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
section {{ border-top: 1px solid #ccc; padding: .5rem 0 }}
span {{ display: inline-block; margin: .1rem; border: 3px solid transparent; padding: .1rem }}
.right {{ border-color: #2a8a3e }}
</style>
<h1>{title}</h1>
<p>Random queries of {images} pictures and {texts} texts, nearest result first. A green frame is a
right result.</p>
<h2>Pictures for a text</h2>
{pictures_for_text}
<h2>Texts for a picture</h2>
{texts_for_picture}
</html>
"""


class Side(NamedTuple):
    """The candidates of a side: what the page shows of each, its aligned row, and its id."""

    shown: Callable[[int], str]
    z: Tensor  # (n, d)
    ids: Tensor  # (n,)


@functools.cache
def thumbnail(path: Path, caption: str) -> str:
    """Return a picture as an element that contains its own data."""
    with Image.open(path) as file:
        image = contained(file, Preprocessing(size=SIDE))
    data = io.BytesIO()
    image.save(data, "JPEG", quality=85)
    source = f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
    return f'<img src="{source}" width="{SIDE}" height="{SIDE}" alt="{html.escape(caption)}">'


def sections(queries: Side, gallery: Side, *, count: int, k: int, between: str) -> str:
    """Return a section for each of `count` random queries, with its k nearest results."""
    rows = features.subsample(torch.arange(len(queries.z)), min(len(queries.z), count), seed=0)
    found = search(queries.z[rows], gallery.z, k=min(k, len(gallery.z))).indices
    right = gallery.ids[found] == queries.ids[rows, None]
    text = ""
    for row, results, hits in zip(rows.tolist(), found.tolist(), right.tolist(), strict=True):
        spans = (
            f'<span class="right" title="right">{gallery.shown(i)}</span>'
            if hit
            else f"<span>{gallery.shown(i)}</span>"
            for i, hit in zip(results, hits, strict=True)
        )
        text += f"<section><p>{queries.shown(row)}</p>\n{between.join(spans)}</section>\n"
    return text


def page(
    model: evaluate.Model, of: Features, run: evaluate.Run, layers: list[str], count: int, k: int
) -> str:
    """Return the page of a model on the split of a set that the settings evaluate."""
    images, texts = evaluate.candidates(of, run)
    z_x = model.transform_x(of.x(layers[0], images))
    z_y = model.transform_y(of.y(layers[1], texts))
    of_image, of_text = ([of.pairs[row] for row in rows.tolist()] for rows in (images, texts))
    picture = Side(lambda i: thumbnail(*of_image[i][:2]), z_x, of.ids[images])
    text = Side(lambda i: html.escape(of_text[i].caption), z_y, of.ids[texts])
    return PAGE.format(
        title=html.escape(f"What a run found in {Path(run['data']['pairs']).parent.name}"),
        images=len(images),
        texts=len(texts),
        pictures_for_text=sections(text, picture, count=count, k=k, between=""),
        texts_for_picture=sections(picture, text, count=count, k=k, between="<br>\n"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="folder that train_alignment.py wrote to")
    parser.add_argument(
        "--queries", type=int, default=12, help="queries of each kind; default: %(default)s"
    )
    parser.add_argument(
        "--results", type=int, default=6, help="results of each query; default: %(default)s"
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("data"),
        help="folder of tables and features; default: %(default)s",
    )
    args = parser.parse_args()
    for folder in tqdm(evaluate.folders_of(args.runs), desc="showing", unit="run"):
        model, run, record = evaluate.opened(folder, [])
        of = features.load(run["data"], args.root)
        text = page(model, of, run, record["layers"], args.queries, args.results)
        (folder / "found.html").write_text(text, encoding="utf-8")
    print(f"wrote found.html into the runs of {args.runs}")


if __name__ == "__main__":
    main()
