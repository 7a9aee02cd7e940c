"""What to monitor along with a STRUCTURE loss: effective neighbours, and collapse of the head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from structure_reg._arrays import Array, as_tensors
from structure_reg._checks import check_choice, check_number, check_paired
from structure_reg._precision import promote
from structure_reg._table import html_table, text_table
from structure_reg.losses.temperature import row_entropy
from structure_reg.losses.transition import CENTERINGS, cosine_kernel, log_transition_matrix


class StructureDiagnostics(NamedTuple):
    """Result of :func:`structure_diagnostics`: six 0-d tensors, printed as a short table.

    Parameters
    ----------
    frozen_self_mass, aligned_self_mass : Tensor
        Mean of the diagonal of the transition matrix, in [0, 1]. Near 1, each row sees only itself:
        raise the temperature.
    frozen_perplexity, aligned_perplexity : Tensor
        Effective number of neighbours of a row, including itself: exp of the mean row entropy, in
        [1, n]. Near n, all rows look alike: lower the temperature.
    aligned_mean_cosine : Tensor
        Mean cosine of two different rows of `aligned`, at most 1. At 1, the head has collapsed to
        one point, where the loss has no gradient.
    aligned_participation_ratio : Tensor
        Effective number of directions that carry the variance of `aligned`,
        :math:`(\\sum \\lambda)^2 / \\sum \\lambda^2` over the eigenvalues of its covariance. It is
        at most min(n - 1, d), and 0 after a collapse.
    """

    frozen_self_mass: Tensor
    aligned_self_mass: Tensor
    frozen_perplexity: Tensor
    aligned_perplexity: Tensor
    aligned_mean_cosine: Tensor
    aligned_participation_ratio: Tensor

    def __str__(self) -> str:
        """Return a table of both sides; it reads the values, so the host waits for a GPU."""
        return text_table(self._cells(), (20, 10, 10))

    def __repr__(self) -> str:
        """Return the table too: a session shows it without print."""
        return str(self)

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def _cells(self) -> list[tuple[str, str, str]]:
        return [
            ("", "frozen", "aligned"),
            ("self-mass", f"{self.frozen_self_mass:.3f}", f"{self.aligned_self_mass:.3f}"),
            ("perplexity", f"{self.frozen_perplexity:.1f}", f"{self.aligned_perplexity:.1f}"),
            ("mean cosine", "", f"{self.aligned_mean_cosine:.3f}"),
            ("participation ratio", "", f"{self.aligned_participation_ratio:.1f}"),
        ]


@torch.no_grad()
def structure_diagnostics(
    frozen: Array, aligned: Array, *, temperature: float = 0.05, centering: str = "after"
) -> StructureDiagnostics:
    r"""Measure the effective neighbours on each side, and whether `aligned` has collapsed.

    Parameters
    ----------
    frozen : Tensor or array of shape (n, d0)
        Features of the pretrained encoder, n >= 2.
    aligned : Tensor or array of shape (n, d)
        The same samples after the head.
    temperature : float
        Temperature :math:`\tau > 0` of :func:`structure_loss`.
    centering : {"after", "before", "none"}
        Option of :func:`structure_loss`.

    Returns
    -------
    StructureDiagnostics
        Six 0-d tensors, float32, or float64 if an input is, without gradient. Only printing them
        waits for a GPU.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the shapes, rows or devices do not fit, n < 2, or an option is out of range.

    See Also
    --------
    temperature_for_perplexity : Temperature for a given perplexity.

    References
    ----------
    Mean cosine as a sign of collapse: Gao et al., "Representation Degeneration Problem in Training
    Natural Language Generation Models", ICLR 2019, arXiv 1907.12009.

    Examples
    --------
    At the published temperature, orthogonal rows see only themselves:

    >>> print(structure_diagnostics(torch.eye(100), torch.ones(100, 3)))
                            frozen   aligned
    self-mass                1.000     0.010
    perplexity                 1.0     100.0
    mean cosine                        1.000
    participation ratio                  0.0
    """
    frozen, aligned = as_tensors("structure_diagnostics", frozen=frozen, aligned=aligned)
    check_paired("structure_diagnostics", frozen=frozen, aligned=aligned)
    temperature = check_number("structure_diagnostics", "temperature", temperature, above=0.0)
    check_choice("structure_diagnostics", "centering", centering, CENTERINGS)
    frozen, aligned = promote(frozen, aligned)
    self_mass, perplexity = {}, {}
    for side, x in (("frozen", frozen), ("aligned", aligned)):
        log_p = log_transition_matrix(
            cosine_kernel(x, centering=centering), temperature=temperature
        )
        self_mass[side] = log_p.diagonal().exp().mean()
        perplexity[side] = row_entropy(log_p).mean().exp()
    n = len(aligned)
    cosines = cosine_kernel(aligned, centering="none")
    K = cosine_kernel(aligned)  # centred: its trace is the variance
    trace, squares = K.diagonal().sum(), K.square().sum()
    # A variance below the rounding of n unit rows has no directions to count.
    collapsed = trace <= n * torch.finfo(K.dtype).eps ** 2
    return StructureDiagnostics(
        self_mass["frozen"],
        self_mass["aligned"],
        perplexity["frozen"],
        perplexity["aligned"],
        (cosines.sum() - cosines.diagonal().sum()) / (n * (n - 1)),
        torch.where(collapsed, 0, trace.square() / torch.where(collapsed, 1, squares)),
    )
