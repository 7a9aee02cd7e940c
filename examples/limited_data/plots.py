"""Figures of the runs: training curves, preserved neighbourhoods, recall by number of pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt


def curves(path: Path, history: Mapping[str, Sequence[float]], *, title: str) -> None:
    """Plot the losses by step, their ratio at the weight of the step, and the validation value."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    contrastive, structure = history["contrastive"], history["structure"]
    steps = range(1, len(contrastive) + 1)
    axes[0].plot(steps, contrastive, label="contrastive")
    axes[0].set(ylabel="loss")
    if any(structure):
        axes[0].plot(steps, structure, label="STRUCTURE")
        axes[0].set_yscale("log")
        terms = zip(history["weight"], structure, contrastive, strict=True)
        axes[1].plot(steps, [weight * R / C for weight, R, C in terms])
    axes[1].set(ylabel="weight x STRUCTURE / contrastive")
    if history.get("validation"):
        axes[2].plot(history["validation_step"], history["validation"])
    axes[2].set(ylabel="validation")
    for ax in axes:
        ax.set(xlabel="step")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    saved(figure, path)


def preservation(
    path: Path, kept: Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]
) -> None:
    """Plot the share of k neighbours that remain: side -> method -> k -> a value per seed."""
    figure, axes = plt.subplots(
        1, len(kept), figsize=(4.6 * len(kept), 3.8), layout="constrained", squeeze=False
    )
    for ax, (side, methods) in zip(axes[0], kept.items(), strict=True):
        for method, by_k in methods.items():
            lines(ax, by_k, method)
        ax.set(
            xlabel="neighbours k", ylabel="share that remain neighbours", title=side, ylim=(0, 1)
        )
        ax.set_xscale("log")
        ax.set_xticks(sorted({k for by_k in methods.values() for k in by_k}))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize="small"
    )
    saved(figure, path)


def by_pairs(path: Path, recalls: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
    """Plot recall against the number of training pairs: method -> pairs -> a value per seed."""
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for method, by_count in recalls.items():
        lines(ax, by_count, method)
    ax.set(xlabel="training pairs", ylabel="mean recall on test")
    ax.set_xscale("log")
    ax.set_xticks(sorted({count for by_count in recalls.values() for count in by_count}))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize="small")
    saved(figure, path)


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
