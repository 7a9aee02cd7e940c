"""The result of :func:`select_layers`, to print, to plot or to write to a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from structure_reg._checks import check_count
from structure_reg._table import html_table
from structure_reg.layers.plotting import Marks, Side, heat_map
from structure_reg.layers.significance import ALPHA
from structure_reg.layers.stability import HALVINGS

# Numbers of a pair in the report, and the width of their columns.
BLEND = 5  # layers a side, of which blends gained most in every study
NUMBERS = {"score": 9, "chance": 9, "calibrated": 12, "p (any pair)": 14}


@dataclass(frozen=True, eq=False)
class LayerSelection:
    r"""Chosen pair of layers and the evidence for it, from :func:`select_layers`.

    Parameters
    ----------
    x_layer, y_layer : int
        Positions of the chosen layers, the pair whose score is highest above chance.
    x_names, y_names : tuple of str
        Names of all layers: the keys of a mapping, or their positions.
    scores, chance : Tensor of shape (LA, LB)
        Similarity of each pair, and mean similarity of the same layers with randomly re-paired
        rows; both are NaN for a constant layer. The mean is exact where a formula is known, and the
        mean over the permutations otherwise.
    p_value : float
        Share of the pairings, the real one included, whose best pair is at least as far above
        chance as the chosen pair; in [1 / (permutations + 1), 1].
    p_values : Tensor of shape (LA, LB)
        The same for each pair: the probability that by chance alone any pair of the grid is as far
        above chance (family-wise error rate).
    q_values : Tensor of shape (LA, LB)
        False-discovery rates of Benjamini and Hochberg.
    calibrated : Tensor of shape (LA, LB)
        Calibrated scores :math:`(s - \tau) / (1 - \tau)`, at least 0, where :math:`\tau` is the
        score that the best of all pairs exceeds by chance with probability 0.05. They are
        comparable across sample sizes and k.
    best_score, last_score : float
        Score of the chosen pair, and of the two last layers. If one of these is constant, its score
        and all gains are NaN.
    gain, gain_error : float
        Difference of these two scores, and its standard error from disjoint halves of the samples.
    held_out_gain : float
        Gain of a pair that is chosen on one half and scored on the other, which removes the
        optimism of picking the maximum. Below 0, the chosen pair is worse than the last.
    stability, x_stability, y_stability : float
        Shares of the half-samples in which the same pair wins, in which the winning pair has the
        same layer of x, and in which it has the same layer of y; in [0, 1].
    warnings : tuple of str
        Reasons to doubt the choice; empty if there are none.
    metric, k, samples, permutations
        Settings of the comparison: the name of the metric, the number of neighbours (None for a
        metric without neighbours), the number of rows and the number of permutations.
    """

    x_layer: int
    y_layer: int
    x_names: tuple[str, ...]
    y_names: tuple[str, ...]
    scores: Tensor
    chance: Tensor
    p_value: float
    p_values: Tensor
    q_values: Tensor
    calibrated: Tensor
    best_score: float
    last_score: float
    gain: float
    gain_error: float
    held_out_gain: float
    stability: float
    x_stability: float
    y_stability: float
    warnings: tuple[str, ...]
    metric: str
    k: int | None
    samples: int
    permutations: int

    @property
    def x_name(self) -> str:
        """Name of the chosen layer of x."""
        return self.x_names[self.x_layer]

    @property
    def y_name(self) -> str:
        """Name of the chosen layer of y."""
        return self.y_names[self.y_layer]

    def blend(self, layers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the layers of each side that are most similar to a layer of the other side.

        Parameters
        ----------
        layers : int
            Number of layers of each side, at least 1. A side with fewer layers that have a score
            gives all of those.

        Returns
        -------
        tuple of two tuples of int
            Positions of the layers of x and of y, from first to last.
        """
        check_count("LayerSelection.blend", "layers", layers)
        scores = self.scores.nan_to_num(-math.inf)
        x, y = (most_similar(scores.amax(axis), layers) for axis in (1, 0))
        return x, y

    @property
    def _best(self) -> tuple[int, int]:
        return self.x_layer, self.y_layer

    @property
    def _last(self) -> tuple[int, int]:
        return len(self.x_names) - 1, len(self.y_names) - 1

    def __str__(self) -> str:
        """Return a table of the best and the last pair, the gain, and the warnings."""
        parts = [self._settings(), *self._table(), self.verdict(), self._blend(), *self._warnings()]
        return "\n".join(parts)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        rows = [(label, *names, *numbers) for label, names, numbers in self._pairs()]
        notes = [*self.verdict().splitlines(), self._blend(), *self._warnings()]
        return html_table([("", "x", "y", *NUMBERS), *rows], self._settings(), notes)

    def _settings(self) -> str:
        k = "" if self.k is None else f", k = {self.k}"
        return (
            f"{self.metric}{k}, {self.samples} samples, "
            f"{len(self.x_names)} x {len(self.y_names)} pairs of layers"
        )

    def _pairs(self) -> Iterator[tuple[str, tuple[str, str], list[str]]]:
        """The best and the last pair: a label, the names of the layers, and the numbers."""
        grids = (self.scores, self.chance, self.calibrated, self.p_values)
        for label, (i, j) in (("best", self._best), ("last", self._last)):
            numbers = [f"{grid[i, j]:.3f}" for grid in grids]
            yield label, (self.x_names[i], self.y_names[j]), numbers

    def _table(self) -> Iterator[str]:
        width = max(7, *(len(name) for _, names, _ in self._pairs() for name in names))
        rows = [("", ("x", "y"), list(NUMBERS)), *self._pairs()]
        for label, (x_name, y_name), numbers in rows:
            cells = zip(numbers, NUMBERS.values(), strict=True)
            yield f"{label:6}{x_name:>{width}}  {y_name:>{width}}" + "".join(
                f"{cell:>{columns}}" for cell, columns in cells
            )

    def _blend(self) -> str:
        x, y = self.blend(BLEND)
        of_x, of_y = [self.x_names[i] for i in x], [self.y_names[j] for j in y]
        return f"blend of up to {BLEND} a side: {', '.join(of_x)} with {', '.join(of_y)}"

    def _warnings(self) -> list[str]:
        return [f"warning: {warning}" for warning in self.warnings]

    def verdict(self) -> str:
        """Return in words the gain over the last pair, and how often half-samples agree."""
        return (
            f"{self._gain(f', {self.held_out_gain:.3f} on held-out halves')}\n"
            f"of {2 * HALVINGS} half-samples the same pair wins {self.stability:.0%}, "
            f"the same x {self.x_stability:.0%}, the same y {self.y_stability:.0%}"
        )

    def _gain(self, held_out: str = "") -> str:
        if self._best == self._last:
            return "the last pair is the best"
        if math.isnan(self.last_score):
            return "the last pair has no score"
        return f"gain over the last pair {self.gain:.3f} ± {self.gain_error:.3f}{held_out}"

    def plot(
        self,
        ax: Any = None,
        *,
        x_label: str | None = None,
        y_label: str | None = None,
        significant: bool = False,
    ) -> Any:
        """Draw the grid of scores; the best pair is boxed, the last pair dashed.

        Layers of x go upwards, layers of y to the right. Pairs without a score stay blank.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Axes to draw on; None creates a figure. Needs the ``plot`` extra.
        x_label, y_label : str, optional
            Labels for the layers of x, on the vertical axis, and of y, on the horizontal axis. None
            is "layer of x" and "layer of y", with the prefix that all names of the side share.
        significant : bool
            Whether to put a dot on every pair with a p-value of at most 0.05 (`p_values`).

        Returns
        -------
        matplotlib.axes.Axes
            Axes with the drawing.
        """
        chance = self.chance.nanmean().item()
        dots = f"; dots: p ≤ {ALPHA:g}" if significant else ""
        return heat_map(
            ax,
            self.scores,
            Side(self.x_names, x_label, "layer of x"),
            Side(self.y_names, y_label, "layer of y"),
            Marks(self._best, self._last, self.p_values <= ALPHA if significant else None),
            lowest=chance,
            label=f"{self.metric}, from chance ({chance:.3f}) up",
            title=f"best {self.best_score:.3f} (red), {self._gain()}{dots}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return every field as numbers, strings and lists, for ``json.dump``.

        Returns
        -------
        dict
            Fields by name, and the names of the chosen layers. Grids are lists of rows; undefined
            scores stay NaN.
        """
        plain = {field.name: plain_value(getattr(self, field.name)) for field in fields(self)}
        return plain | {"x_name": self.x_name, "y_name": self.y_name}


def most_similar(scores: Tensor, count: int) -> tuple[int, ...]:
    """Positions of the highest scores, in order of position; never those without a score."""
    first = scores.argsort(descending=True, stable=True)[:count].tolist()
    return tuple(sorted(i for i in first if scores[i] > -math.inf))


def plain_value(value: Any) -> Any:
    """A tensor or a tuple as lists, any other value unchanged."""
    if isinstance(value, Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value
