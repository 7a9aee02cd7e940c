"""Heat map of the scores of all pairs of layers; the only file that needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, NamedTuple

from torch import Tensor

BEST = "#d1495b"
LAST = "#3d3d3d"
DOT = "#f2a541"
SEPARATORS = "._-/ "


class Side(NamedTuple):
    """The layers along one axis."""

    names: Sequence[str]
    label: str | None
    default: str  # label, to which the prefix that all names share is added


class Marks(NamedTuple):
    """What is drawn on top of the colours."""

    best: tuple[int, int]
    last: tuple[int, int]
    dotted: Tensor | None  # (LA, LB) bool


def heat_map(
    ax: Any,
    scores: Tensor,
    x: Side,
    y: Side,
    marks: Marks,
    *,
    lowest: float,
    label: str,
    title: str,
) -> Any:
    """Draw scores as colours from `lowest` up, the layers of x upwards, those of y to the right.

    The best pair is boxed and the last pair dashed; `label` describes the colours.
    """
    ax = ax if ax is not None else new_axes(*scores.shape)
    image = ax.imshow(scores.numpy(), origin="lower", aspect="auto", cmap="Blues", vmin=lowest)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.03)
    bar.set_label(label)
    bar.outline.set_visible(False)
    label_axes(ax, x, y)
    box(ax, scores, marks.last, LAST, "--")
    box(ax, scores, marks.best, BEST, "-")
    if marks.dotted is not None:
        i, j = marks.dotted.nonzero().numpy().T
        ax.scatter(j + 0.3, i + 0.28, s=9, color=DOT, edgecolor="white", linewidth=0.5)
    ax.set_title(title, fontsize="medium", loc="left")
    return ax


def new_axes(rows: int, columns: int) -> Any:
    from matplotlib import pyplot as plt

    size = 2.4 + 0.45 * columns, 1.4 + 0.34 * rows  # inches
    return plt.subplots(figsize=size, layout="constrained")[1]


def label_axes(ax: Any, x: Side, y: Side) -> None:
    x_label, x_names = describe(x)
    y_label, y_names = describe(y)
    ax.set_yticks(range(len(x_names)), x_names)
    rotation = 90 if max(map(len, y_names)) > 3 else 0
    ax.set_xticks(range(len(y_names)), y_names, rotation=rotation)
    ax.set_ylabel(x_label)
    ax.set_xlabel(y_label)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def describe(side: Side) -> tuple[str, list[str]]:
    """The label of an axis, and short names for its layers."""
    prefix, names = split_prefix(side.names)
    if side.label is not None:
        return side.label, names
    return f"{side.default} ({prefix})" if prefix else side.default, names


def box(ax: Any, scores: Tensor, pair: tuple[int, int], colour: str, style: str) -> None:
    """Draw a box around one cell and write its score into it."""
    from matplotlib.patches import Rectangle

    i, j = pair
    ax.add_patch(
        Rectangle(
            (j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=colour, linewidth=2.2, ls=style
        )
    )
    score = scores[i, j].item()
    if math.isnan(score):
        return
    dark = score > sum(ax.images[0].get_clim()) / 2
    ax.text(
        j, i, f"{score:.2f}".removeprefix("0"),
        ha="center", va="center", color="white" if dark else "black", fontsize="small",
    )  # fmt: skip


def split_prefix(names: Sequence[str]) -> tuple[str, list[str]]:
    """Split the prefix that all names share, up to a separator, from the rest of each name."""
    # A prefix shared by the first and the last name in order is shared by all.
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    prefix = "".join(letter for letter, _ in equal) if len(names) > 1 else ""
    end = 1 + max(prefix.rfind(separator) for separator in SEPARATORS)
    return prefix[:end].rstrip(SEPARATORS), [name[end:] for name in names]
