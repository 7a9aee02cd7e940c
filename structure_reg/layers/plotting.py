"""The picture of a :class:`LayerSelection`; the one place that needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structure_reg.layers.report import LayerSelection


def heat_map(selection: LayerSelection, ax: Any) -> Any:
    """Draw scores as colours, the layers of x upwards and those of y to the right."""
    from matplotlib import pyplot as plt
    from matplotlib.patches import Rectangle

    rows, columns = selection.scores.shape
    if ax is None:
        _, ax = plt.subplots(
            figsize=(1.6 + 0.42 * columns, 1.2 + 0.32 * rows), layout="constrained"
        )
    chance = float(selection.chance.nan_to_num(0).mean())
    image = ax.imshow(
        selection.scores.cpu().numpy(), origin="lower", aspect="auto", cmap="viridis", vmin=chance
    )
    ax.figure.colorbar(image, ax=ax, label=f"{selection.metric}, from chance ({chance:.3f}) up")
    ax.set_xticks(range(columns), selection.y_names)
    ax.set_yticks(range(rows), selection.x_names)
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)
    last, best = (columns - 1, rows - 1), (selection.y_layer, selection.x_layer)
    for (j, i), style, inset in ((last, ":", 0.06), (best, "-", 0.06)):
        side = 1 - 2 * inset
        ax.add_patch(
            Rectangle(
                (j - 0.5 + inset, i - 0.5 + inset),
                side,
                side,
                fill=False,
                edgecolor="white",
                linewidth=2.2,
                linestyle=style,
                clip_on=False,
            )
        )
        ax.text(
            j,
            i,
            f"{float(selection.scores[i, j]):.2f}",
            ha="center",
            va="center",
            color="white",
            fontsize="small",
        )
    ax.set_title(
        f"best {selection.x_name} / {selection.y_name} (boxed), last dotted", fontsize="medium"
    )
    return ax
