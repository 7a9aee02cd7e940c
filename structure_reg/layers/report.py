"""What :func:`select_layers` found: printed, plotted, or written to a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from structure_reg.layers.stability import HALVINGS


@dataclass(frozen=True, eq=False)
class LayerSelection:
    r"""A pair of layers and the evidence for it, from :func:`select_layers`.

    Parameters
    ----------
    x_layer, y_layer : int
        Positions of the chosen layers: the pair whose score is highest above chance.
    x_names, y_names : tuple of str
        Names of all layers: the keys of a mapping, or their positions.
    scores, chance : Tensor of shape (LA, LB)
        Similarity of each pair, and the mean similarity of the same layers when their rows are
        re-paired at random: exact where it is known, else of the permutations.
    p_value : float
        Of the maximum: how often the best of all pairs is as far above chance when the rows are
        re-paired, in [1 / (permutations + 1), 1].
    p_values : Tensor of shape (LA, LB)
        The same for each pair: the probability that chance alone brings any pair of the grid as far
        (family-wise error rate).
    q_values : Tensor of shape (LA, LB)
        False-discovery rates, Benjamini and Hochberg.
    calibrated : Tensor of shape (LA, LB)
        :math:`(s - \tau) / (1 - \tau)`, at least 0, with :math:`\tau` the score that the best of
        all pairs exceeds by chance with probability 0.05. Comparable across sample sizes and k.
    best_score, last_score : float
        Score of the chosen pair, and of the two last layers.
    gain, gain_error : float
        Their difference and its standard error, from disjoint halves of the samples.
    held_out_gain : float
        The difference for a pair chosen on one half and scored on the other: free of the optimism
        of having picked the maximum; below 0 where the choice does harm.
    stability, x_stability, y_stability : float
        Share of the halves in which the same pair wins, in which its layer of x is in the winning
        pair, and its layer of y; in [0, 1].
    warnings : tuple of str
        What to think of before believing the choice; empty when nothing was found.
    metric, k, samples, permutations
        What was measured: the metric's name, the size of a neighbourhood (None without one), the
        rows used, the number of permutations.
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

    def __str__(self) -> str:
        """Return the best and the last pair as a table, the gain, and the warnings."""
        k = "" if self.k is None else f", k = {self.k}"
        last = len(self.x_names) - 1, len(self.y_names) - 1
        width = max(7, *map(len, (self.x_name, self.x_names[-1], self.y_name, self.y_names[-1])))
        lines = [
            f"{self.metric}{k}, {self.samples} samples, "
            f"{len(self.x_names)} x {len(self.y_names)} pairs of layers",
            f"{'':6}{'x':>{width}}  {'y':>{width}}    score   chance  calibrated  p (any pair)",
        ]
        for label, (i, j) in (("best", (self.x_layer, self.y_layer)), ("last", last)):
            lines.append(
                f"{label:6}{self.x_names[i]:>{width}}  {self.y_names[j]:>{width}}"
                f"{self.scores[i, j]:9.3f}{self.chance[i, j]:9.3f}"
                f"{self.calibrated[i, j]:12.3f}{self.p_values[i, j]:14.3f}"
            )
        lines.append(self.verdict())
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)

    def verdict(self) -> str:
        """Return the gain over the last pair, and how often the choice repeats, in words."""
        last = len(self.x_names) - 1, len(self.y_names) - 1
        gain = "the last pair is the best"
        if (self.x_layer, self.y_layer) != last:
            gain = (
                f"gain over the last pair {self.gain:.3f} ± {self.gain_error:.3f}, "
                f"{self.held_out_gain:.3f} on held-out halves"
            )
        return (
            f"{gain}\nof {2 * HALVINGS} half-samples the same pair wins {self.stability:.0%}, "
            f"the same x {self.x_stability:.0%}, the same y {self.y_stability:.0%}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw the grid of scores, the best pair boxed and the last pair dashed.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; None makes a figure. Needs the ``plot`` extra.

        Returns
        -------
        matplotlib.axes.Axes
            With the drawing.
        """
        from structure_reg.layers.plotting import heat_map  # matplotlib is an extra

        return heat_map(self, ax)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as numbers, strings and lists, for ``json.dump``.

        Returns
        -------
        dict
            The fields by name, grids as lists of rows; a score that is not a number stays NaN.
        """
        return {
            name: value.tolist()
            if isinstance(value, Tensor)
            else list(value)
            if isinstance(value, tuple)
            else value
            for name, value in vars(self).items()
        } | {"x_name": self.x_name, "y_name": self.y_name}
