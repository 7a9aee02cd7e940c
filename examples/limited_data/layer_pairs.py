"""Which layers to align: measured on the training pairs, and chosen in one of several ways."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from features import Features, distinct, subsample
from similarities import METRICS
from torch import Tensor

from structure_reg import layer_similarity, select_layers
from structure_reg.layers.grid import KERNELS, NEIGHBOURS

BINS = 5
LayerPair = tuple[str, str]


class Measured(NamedTuple):
    """The score of every pair of layers, and how to show it."""

    scores: Tensor  # (LA, LB)
    images: tuple[str, ...]
    texts: tuple[str, ...]
    summary: dict[str, Any]
    text: str
    plot: Callable[[Any], Any]

    def name(self, flat: int) -> LayerPair:
        i, j = divmod(flat, len(self.texts))
        return self.images[i], self.texts[j]


def measured(features: Features, rows: Tensor, selection: Mapping[str, Any]) -> Measured:
    """Every layer of the one store with every layer of the other.

    Metrics that look up neighbours or kernels are set beside re-paired rows and judged by
    select_layers. The others take one evaluation a pair of layers and a permutation, and are not.
    """
    rows = subsample(rows, min(len(rows), selection["max_samples"]), seed=0)
    images = {layer: features.x(layer, rows) for layer in features.images}
    texts = {layer: features.y(layer, rows) for layer in features.texts}
    metric, k = selection["metric"], selection["k"]
    if metric in NEIGHBOURS or metric in KERNELS:
        found = select_layers(
            images, texts, metric=metric, k=k, permutations=selection["permutations"]
        )
        return Measured(
            found.scores, tuple(images), tuple(texts), found.to_dict(), str(found), found.plot
        )
    scores = layer_similarity(images, texts, metric=METRICS.get(metric, metric), k=k)
    names = tuple(images), tuple(texts)
    defined = scores.nan_to_num(-torch.inf)
    i, j = divmod(int(defined.argmax()), len(texts))
    text = (
        f"{metric}, {len(rows)} samples: best {defined.max():.3g} at {names[0][i]} and "
        f"{names[1][j]}, last pair {scores[-1, -1]:.3g}"
    )
    summary = {"metric": metric, "x_names": names[0], "y_names": names[1],
               "scores": scores.tolist(), "samples": len(rows)}  # fmt: skip
    return Measured(scores, *names, summary, text, lambda ax: drawn(ax, metric, scores, *names))


def drawn(
    ax: Any, metric: str, scores: Tensor, images: Sequence[str], texts: Sequence[str]
) -> None:
    """A heat map as that of select_layers, from the lowest score up and with the best marked."""
    image = ax.imshow(scores.numpy(), origin="lower", aspect="auto", cmap="Blues")
    ax.figure.colorbar(image, ax=ax, pad=0.03).set_label(metric)
    ax.set_yticks(range(len(images)), images, fontsize="small")
    ax.set_xticks(range(len(texts)), texts, fontsize="small", rotation=90)
    i, j = divmod(int(scores.nan_to_num(-torch.inf).argmax()), len(texts))
    ax.plot(j, i, marker="s", ms=14, mfc="none", mec="#d1495b", mew=2.2)
    ax.set_title(
        f"best {scores.nan_to_num(-torch.inf).max():.3g} (red), last {scores[-1, -1]:.3g}",
        loc="left",
    )


def explicit(wanted: Any) -> bool:
    """Whether a pair of layers is given by names, so that nothing has to be measured."""
    return isinstance(wanted, list) and len(wanted) == 2 and all(isinstance(l, str) for l in wanted)


def chosen(grid: Measured, wanted: Any, *, seed: int) -> dict[str, LayerPair]:
    """Pairs of layers by name: "best", "last", {last: n}, "binned", or a pair as it is.

    {last: n} is the best pair among the last n layers of either side. "binned" is a pair out of
    each fifth of the range of scores, beside the best, the worst and the last: does the score tell
    how well a pair aligns?
    """
    names = {
        "best": int(grid.scores.nan_to_num(-torch.inf).argmax()),
        "last": grid.scores.numel() - 1,
    }
    if wanted in ("best", "last"):
        return {wanted: grid.name(names[wanted])}
    if isinstance(wanted, Mapping) and list(wanted) == ["last"]:
        n = wanted["last"]
        corner = grid.scores[-n:, -n:]
        i, j = divmod(int(corner.nan_to_num(-torch.inf).argmax()), corner.shape[1])
        i, j = len(grid.images) - corner.shape[0] + i, len(grid.texts) - corner.shape[1] + j
        return {f"best of the last {n}": (grid.images[i], grid.texts[j])}
    if wanted == "binned":
        flat = grid.scores.flatten()  # NaN for a layer that is constant
        there = flat[flat.isfinite()]
        edges = torch.linspace(there.min(), there.max(), BINS + 1, dtype=flat.dtype)
        bin_of = torch.bucketize(flat, edges[1:-1])
        draw = random.Random(seed)
        for number in range(BINS):
            inside = ((bin_of == number) & flat.isfinite()).nonzero().flatten().tolist()
            if inside:
                names[f"bin {number + 1}"] = draw.choice(inside)
        names["worst"] = int(flat.nan_to_num(torch.inf).argmin())
        return {name: grid.name(place) for name, place in names.items()}
    if isinstance(wanted, Sequence) and len(wanted) == 2 and not isinstance(wanted, str):
        pair = of_side(wanted[0], grid.images), of_side(wanted[1], grid.texts)
        return {" with ".join(pair): pair}
    raise SystemExit(
        f"selection.layers: expected best, last, binned, {{last: n}} or a pair, got {wanted!r}"
    )


def of_side(layer: str | int, names: Sequence[str]) -> str:
    """A layer by its name, or by its number, also from the last."""
    if isinstance(layer, int) and -len(names) <= layer < len(names):
        return names[layer]
    if layer not in names:
        raise SystemExit(f"selection.layers: expected one of {', '.join(names)}, got {layer!r}")
    return str(layer)


def of_run(
    features: Features, rows: Tensor, selection: Mapping[str, Any], seed: int
) -> dict[str, LayerPair]:
    """The pairs of layers that a run aligns; measured on its own training pairs, if at all."""
    wanted = selection["layers"]
    if explicit(wanted):
        images, texts = tuple(features.images), tuple(features.texts)
        pair = of_side(wanted[0], images), of_side(wanted[1], texts)
        return {" with ".join(pair): pair}
    if wanted == "last":
        return {"last": (list(features.images)[-1], list(features.texts)[-1])}
    return chosen(measured(features, distinct(features, rows), selection), wanted, seed=seed)
