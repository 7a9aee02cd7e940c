"""Heat map of the scores of all pairs of layers; the only file that needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

BEST = "#d1495b"
LAST = "#3d3d3d"
SEPARATORS = "._-/ "


def heat_map(
    ax: Any,
    scores: Tensor,
    x_names: Sequence[str],
    y_names: Sequence[str],
    *,
    best: tuple[int, int],
    lowest: float,
    label: str,
    title: str,
) -> Any:
    """Draw scores as colours from `lowest` up, the layers of x upwards, those of y to the right.

    The best pair is boxed and the last pair dashed; `label` describes the colours.
    """
    rows, columns = scores.shape
    ax = ax if ax is not None else new_axes(rows, columns)
    image = ax.imshow(scores.numpy(), origin="lower", aspect="auto", cmap="Blues", vmin=lowest)
    bar = ax.figure.colorbar(image, ax=ax, pad=0.03)
    bar.set_label(label)
    bar.outline.set_visible(False)
    label_axes(ax, x_names, y_names)
    box(ax, scores, (rows - 1, columns - 1), LAST, "--")
    box(ax, scores, best, BEST, "-")
    ax.set_title(title, fontsize="medium", loc="left")
    return ax


def new_axes(rows: int, columns: int) -> Any:
    from matplotlib import pyplot as plt

    size = 2.4 + 0.45 * columns, 1.4 + 0.34 * rows  # inches
    return plt.subplots(figsize=size, layout="constrained")[1]


def label_axes(ax: Any, x_names: Sequence[str], y_names: Sequence[str]) -> None:
    x_prefix, x_labels = split_prefix(x_names)
    y_prefix, y_labels = split_prefix(y_names)
    ax.set_yticks(range(len(x_labels)), x_labels)
    rotation = 90 if max(map(len, y_labels)) > 3 else 0
    ax.set_xticks(range(len(y_labels)), y_labels, rotation=rotation)
    ax.set_ylabel(f"{x_prefix} layer".strip())
    ax.set_xlabel(f"{y_prefix} layer".strip())
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


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
