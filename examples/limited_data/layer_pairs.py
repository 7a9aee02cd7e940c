"""Which layers to align: scored on the training pairs, and chosen in one of several ways."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from features import Features, distinct, subsample
from similarities import METRICS
from torch import Tensor

from structure_reg import layer_similarity, select_layers
from structure_reg.layers.grid import CKA_METRICS, KNN_METRICS
from structure_reg.layers.plotting import Marks, Side, heat_map

BINS = 5
FEWEST = 8  # pairs that select_layers needs
LayerPair = tuple[str, str]


class LayerScores(NamedTuple):
    """The score of every pair of layers, and how to report it."""

    scores: Tensor  # (LA, LB)
    images: tuple[str, ...]
    texts: tuple[str, ...]
    summary: dict[str, Any]
    text: str
    plot: Callable[..., Any]  # (ax, x_label=, y_label=)

    def pair(self, flat: int) -> LayerPair:
        """Names of the layers at a position of the flattened scores."""
        i, j = divmod(flat, len(self.texts))
        return self.images[i], self.texts[j]


def score_pairs(features: Features, rows: Tensor, selection: Mapping[str, Any]) -> LayerScores:
    """Score every layer of the images with every layer of the texts.

    Metrics that look up neighbours or kernels are tested against chance by select_layers. For the
    others that would take one evaluation per pair of layers and permutation, so they are only
    scored.
    """
    if len(rows) < FEWEST:
        raise SystemExit(
            f"selection: expected at least {FEWEST} training pairs that do not repeat, got "
            f"{len(rows)}; selection.layers=last needs none"
        )
    rows = subsample(rows, min(len(rows), selection["max_samples"]), seed=0)
    images = {layer: features.x(layer, rows) for layer in features.images}
    texts = {layer: features.y(layer, rows) for layer in features.texts}
    metric, k = selection["metric"], selection["k"]
    if metric in KNN_METRICS or metric in CKA_METRICS:
        report = select_layers(
            images, texts, metric=metric, k=k, permutations=selection["permutations"]
        )
        names = report.x_names, report.y_names
        return LayerScores(report.scores, *names, report.to_dict(), str(report), report.plot)
    scores = layer_similarity(images, texts, metric=METRICS.get(metric, metric), k=k)
    return without_chance(metric, scores, tuple(images), tuple(texts), len(rows))


def without_chance(
    metric: str, scores: Tensor, images: tuple[str, ...], texts: tuple[str, ...], samples: int
) -> LayerScores:
    """Report scores that were not compared with chance."""
    i, j = divmod(best_position(scores), len(texts))
    best, last = scores[i, j], scores[-1, -1]
    text = (
        f"{metric}, {samples} samples: best {best:.3g} at {images[i]} and {texts[j]}, "
        f"last pair {last:.3g}"
    )
    summary = {"metric": metric, "x_names": images, "y_names": texts,
               "scores": scores.tolist(), "samples": samples}  # fmt: skip

    def plot(ax: Any, *, x_label: str, y_label: str) -> Any:
        return heat_map(
            ax,
            scores,
            Side(images, x_label, ""),
            Side(texts, y_label, ""),
            Marks((i, j), (len(images) - 1, len(texts) - 1), None),
            lowest=scores.nan_to_num(torch.inf).min().item(),
            label=metric,
            title=f"best {best:.3g} (red), last {last:.3g}",
        )

    return LayerScores(scores, images, texts, summary, text, plot)


def best_position(scores: Tensor) -> int:
    """Position of the highest score in the flattened scores; NaN counts as lowest."""
    return int(scores.nan_to_num(-torch.inf).argmax())


def pairs_of_run(
    features: Features, rows: Tensor, selection: Mapping[str, Any], seed: int
) -> dict[str, LayerPair]:
    """The pairs of layers that a run aligns; scored on its own training pairs, if at all."""
    wanted = selection["layers"]
    images, texts = tuple(features.images), tuple(features.texts)
    if isinstance(wanted, list) and len(wanted) == 2 and all(isinstance(l, str) for l in wanted):
        return explicit_pair(wanted, images, texts)
    if wanted == "last":
        return {"last": (images[-1], texts[-1])}
    grid = score_pairs(features, distinct(features, rows), selection)
    return choose_pairs(grid, wanted, seed=seed)


def choose_pairs(grid: LayerScores, wanted: Any, *, seed: int) -> dict[str, LayerPair]:
    """Pairs of layers by name: "best", "last", {last: n}, "binned", or an explicit pair.

    {last: n} is the best pair among the last n layers of each side. "binned" is a random pair from
    each fifth of the range of scores, along with the best, the last and the worst pair: it shows
    whether the score predicts how well a pair aligns.
    """
    if wanted == "best":
        return {"best": grid.pair(best_position(grid.scores))}
    if wanted == "last":
        return {"last": grid.pair(grid.scores.numel() - 1)}
    if wanted == "binned":
        return pairs_across_scores(grid, seed)
    if isinstance(wanted, Mapping) and list(wanted) == ["last"]:
        n = wanted["last"]
        return {f"best of the last {n}": best_of_last(grid, n)}
    if isinstance(wanted, Sequence) and len(wanted) == 2 and not isinstance(wanted, str):
        return explicit_pair(wanted, grid.images, grid.texts)
    raise SystemExit(
        f"selection.layers: expected best, last, binned, {{last: n}} or a pair, got {wanted!r}"
    )


def best_of_last(grid: LayerScores, n: int) -> LayerPair:
    corner = grid.scores[-n:, -n:]
    i, j = divmod(best_position(corner), corner.shape[1])
    return grid.images[-n:][i], grid.texts[-n:][j]


def pairs_across_scores(grid: LayerScores, seed: int) -> dict[str, LayerPair]:
    """The best and the last pair, a random pair from each bin of the scores, and the worst pair."""
    flat = grid.scores.flatten()
    finite = flat[flat.isfinite()]
    edges = torch.linspace(finite.min(), finite.max(), BINS + 1, dtype=flat.dtype)
    bin_of = torch.bucketize(flat, edges[1:-1])
    positions = {"best": best_position(flat), "last": len(flat) - 1}
    rng = random.Random(seed)
    for number in range(BINS):
        inside = ((bin_of == number) & flat.isfinite()).nonzero().flatten().tolist()
        if inside:
            positions[f"bin {number + 1}"] = rng.choice(inside)
    positions["worst"] = int(flat.nan_to_num(torch.inf).argmin())
    return {name: grid.pair(position) for name, position in positions.items()}


def explicit_pair(
    wanted: Sequence[str | int], images: Sequence[str], texts: Sequence[str]
) -> dict[str, LayerPair]:
    pair = layer_name(wanted[0], images), layer_name(wanted[1], texts)
    return {" with ".join(pair): pair}


def layer_name(layer: str | int, names: Sequence[str]) -> str:
    """Name of a layer that is given by its name or its position; negative from the end."""
    if isinstance(layer, int) and -len(names) <= layer < len(names):
        return names[layer]
    if layer not in names:
        raise SystemExit(f"selection.layers: expected one of {', '.join(names)}, got {layer!r}")
    return str(layer)
