"""The picture of a :class:`LayerSelection`; the one place that needs matplotlib."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structure_reg.layers.report import LayerSelection

BEST = "#d1495b"
LAST = "#3d3d3d"
SEPARATORS = "._-/ "


def heat_map(selection: LayerSelection, ax: Any) -> Any:
    """Draw scores as colours, the layers of x upwards and those of y to the right."""
    rows, columns = selection.scores.shape
    if ax is None:
        from matplotlib import pyplot as plt

        size = 2.4 + 0.45 * columns, 1.4 + 0.34 * rows  # inches
        _, ax = plt.subplots(figsize=size, layout="constrained")
    chance = selection.chance.nanmean().item()
    image = ax.imshow(
        selection.scores.numpy(), origin="lower", aspect="auto", cmap="Blues", vmin=chance
    )
    bar = ax.figure.colorbar(image, ax=ax, pad=0.03)
    bar.set_label(f"{selection.metric}, from chance ({chance:.3f}) up")
    bar.outline.set_visible(False)
    x_prefix, x_labels = without_prefix(selection.x_names)
    y_prefix, y_labels = without_prefix(selection.y_names)
    ax.set_yticks(range(rows), x_labels)
    ax.set_xticks(range(columns), y_labels, rotation=90 if max(map(len, y_labels)) > 3 else 0)
    ax.set_ylabel(f"{x_prefix} layer".strip())
    ax.set_xlabel(f"{y_prefix} layer".strip())
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    mark(ax, selection, (rows - 1, columns - 1), LAST, "--")
    mark(ax, selection, (selection.x_layer, selection.y_layer), BEST, "-")
    gain = "the last pair is the best"
    if selection.gain:
        gain = f"gain over the last {selection.gain:.3f} ± {selection.gain_error:.3f}"
    ax.set_title(f"best {selection.best_score:.3f} (red), {gain}", fontsize="medium", loc="left")
    return ax


def mark(
    ax: Any, selection: LayerSelection, pair: tuple[int, int], colour: str, style: str
) -> None:
    """Box one cell and write its score into it."""
    from matplotlib.patches import Rectangle

    i, j = pair
    ax.add_patch(
        Rectangle(
            (j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=colour, linewidth=2.2, ls=style
        )
    )
    score = selection.scores[i, j].item()
    dark = score > sum(ax.images[0].get_clim()) / 2
    ax.text(
        j, i, f"{score:.2f}".removeprefix("0"),
        ha="center", va="center", color="white" if dark else "black", fontsize="small",
    )  # fmt: skip


def without_prefix(names: tuple[str, ...]) -> tuple[str, list[str]]:
    """Split off what all names begin with, up to a separator: it labels the axis once."""
    # What the first and the last in order share, all share.
    equal = takewhile(lambda pair: pair[0] == pair[1], zip(min(names), max(names), strict=False))
    prefix = "".join(letter for letter, _ in equal) if len(names) > 1 else ""
    end = 1 + max(prefix.rfind(separator) for separator in SEPARATORS)
    return prefix[:end].rstrip(SEPARATORS), [name[end:] for name in names]
