"""The frozen side of STRUCTURE, prepared once for all steps that see the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_count, check_features, check_number
from structure_reg._gram import centered_unit_rows
from structure_reg._kernels.frozen import frozen_walks
from structure_reg._precision import full_precision, promote
from structure_reg.losses.transition import CENTERINGS


class FrozenStructure:
    r"""Neighbourhoods of frozen features, which :func:`structure_loss` takes in their place.

    .. math:: P^l = \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau)^l, \qquad l = 1, \dots, L

    It stores L matrices of shape (n, n), and saves time when every step sees the same rows: a small
    data set as one batch, or batches that are drawn once. The loss and its gradient are unchanged.

    Parameters
    ----------
    frozen : Tensor of shape (n, d0)
        Features of the pretrained encoder, n >= 2, as in :func:`structure_loss`.
    temperature, levels, centering
        Options of :func:`structure_loss`, which has to be called with the same values.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `frozen` is not (n, d0) with n >= 2, or an option is out of range.

    See Also
    --------
    structure_loss : The loss, whose first argument can be a FrozenStructure.

    References
    ----------
    Gröger et al., NeurIPS 2025, arXiv 2506.16895, section 4.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> frozen, aligned = torch.randn(2, 64, 16, generator=g)
    >>> prepared = FrozenStructure(frozen, levels=2)
    >>> prepared
    FrozenStructure(rows=64, temperature=0.05, levels=2, centering='after')
    >>> value = structure_loss(prepared, aligned, levels=2)
    >>> torch.allclose(value, structure_loss(frozen, aligned, levels=2))
    True
    """

    @torch.no_grad()
    def __init__(
        self,
        frozen: Tensor,
        *,
        temperature: float = 0.05,
        levels: int = 1,
        centering: str = "after",
    ) -> None:
        check_features("FrozenStructure", frozen=frozen)
        check_number("FrozenStructure", "temperature", temperature, above=0.0)
        check_count("FrozenStructure", "levels", levels)
        check_choice("FrozenStructure", "centering", centering, CENTERINGS)
        (frozen,) = promote(frozen)
        with full_precision(frozen.device):
            X = centered_unit_rows(frozen, centering)
            self.walks = frozen_walks(X, temperature, levels)
        self.temperature = temperature
        self.levels = levels
        self.centering = centering

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.walks.y)

    def __repr__(self) -> str:
        """Return the number of rows and the options."""
        return (
            f"FrozenStructure(rows={len(self)}, temperature={self.temperature}, "
            f"levels={self.levels}, centering={self.centering!r})"
        )
