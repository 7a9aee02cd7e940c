"""Figures of the runs: training curves, preserved neighbourhoods, recall by number of pairs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

LINE = 0.19  # height of a line of a legend in inches
LETTERS = 13  # of a legend, per inch
APART = 0.035  # least distance of two ticks, as a share of the axis


def curves(path: Path, history: Mapping[str, Sequence[float]], *, title: str) -> None:
    """Plot the losses by step, their ratio at the weight of the step, and the validation value.

    The ratio and the validation value are left out where there are none.
    """
    contrastive, structure = history["contrastive"], history["structure"]
    steps = range(1, len(contrastive) + 1)
    terms = {"contrastive": (steps, contrastive)}
    panels = {"loss": terms}
    if any(structure):
        terms["STRUCTURE"] = steps, structure
        parts = zip(history["weight"], structure, contrastive, strict=True)
        panels["weight x STRUCTURE / contrastive"] = {
            "": (steps, [weight * R / C for weight, R, C in parts])
        }
    if history.get("validation"):
        panels["validation recall"] = {"": (history["validation_step"], history["validation"])}
    width = 4 * len(panels)
    title = textwrap.fill(title, 10 * width)
    height = 3.2 + 0.22 * (title.count("\n") + 1)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(width, height), layout="constrained", squeeze=False
    )
    for ax, (name, drawn) in zip(axes[0], panels.items(), strict=True):
        for label, (x, y) in drawn.items():
            ax.plot(x, y, label=label)
        ax.set(xlabel="step", ylabel=name)
        ax.spines[["top", "right"]].set_visible(False)
    if len(terms) > 1:
        axes[0, 0].set_yscale("log")
    axes[0, 0].legend(frameon=False)
    figure.suptitle(title)
    saved(figure, path)


def preservation(
    path: Path, kept: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]
) -> None:
    """Plot the share of k neighbours that remain: side -> method -> k -> a value per seed."""
    figure, axes = plt.subplots(
        1, len(kept), figsize=(4.6 * len(kept), 3.6), layout="constrained", squeeze=False
    )
    for ax, (side, methods) in zip(axes[0], kept.items(), strict=True):
        for method, by_k in methods.items():
            lines(ax, by_k, method)
        ax.set(
            xlabel="neighbours k", ylabel="share that remain neighbours", title=side, ylim=(0, 1)
        )
        counted(ax, (k for by_k in methods.values() for k in by_k))
    legend(figure, axes[0, 0])
    saved(figure, path)


def by_pairs(path: Path, recalls: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """Plot recall against the number of training pairs: method -> pairs -> a value per seed."""
    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for method, by_count in recalls.items():
        lines(ax, by_count, method)
    ax.set(xlabel="training pairs", ylabel="mean recall on test", title="mean and range over seeds")
    counted(ax, (count for by_count in recalls.values() for count in by_count))
    legend(figure, ax)
    saved(figure, path)


# %% Parts
def legend(figure: Any, ax: Any) -> None:
    """Add a legend of the lines below the panels, and the height that it needs."""
    handles, labels = ax.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    letters = int(width * LETTERS)
    columns = 2 if max(map(len, labels)) < letters / 2 - 8 else 1
    labels = [textwrap.fill(label, letters // columns - 6) for label in labels]
    room = LINE * sum(label.count("\n") + 1 for label in labels) / columns
    figure.set_size_inches(width, height + room)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize="small"
    )


def counted(ax: Any, counts: Iterable[int]) -> None:
    """Make the x axis logarithmic, with a tick at every count that has room for its number."""
    ax.set_xscale("log")
    ticks: list[int] = []
    low, high = (math.log(x) for x in ax.get_xlim())
    for count in sorted(set(counts)):
        if not ticks or math.log(count / ticks[-1]) > APART * (high - low):
            ticks.append(count)
    crowded = len(str(ticks[-1])) * len(ticks) > 30
    ax.set_xticks(ticks, map(str, ticks), rotation=45 if crowded else 0)
    ax.minorticks_off()


def lines(ax: Any, values: Mapping[int, Sequence[float]], label: str) -> None:
    """Plot means over the seeds with their range; after ten colours the lines are dashed."""
    at = sorted(values)
    means = [sum(values[x]) / len(values[x]) for x in at]
    style = "-" if len(ax.lines) < 10 else "--"
    (line,) = ax.plot(at, means, marker="o", ms=4, ls=style, label=label)
    low, high = ([f(values[x]) for x in at] for f in (min, max))
    ax.fill_between(at, low, high, color=line.get_color(), alpha=0.15, lw=0)
    ax.spines[["top", "right"]].set_visible(False)


def saved(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
