"""The frozen side of STRUCTURE, prepared once for all the steps that meet the same rows."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_choice, check_count, check_features, check_number
from structure_reg._gram import centered_unit_rows, gram
from structure_reg._kernels.frozen import frozen_tile, frozen_walks
from structure_reg._precision import full_precision, promote
from structure_reg.losses.transition import CENTERINGS, log_transition_matrix


class FrozenStructure:
    r"""Neighbourhoods of frozen features, to give :func:`structure_loss` in place of them.

    .. math:: P^l = \operatorname{rowsoftmax}(\bar X \bar X^\top / \tau)^l, \qquad l = 1, \dots, L

    Worth its memory, L (n, n) matrices, where the rows of a batch are the same at every step: the
    whole of a small data set, or batches drawn once. The loss and its gradient stay the same.

    Parameters
    ----------
    frozen : Tensor of shape (n, d0)
        As in :func:`structure_loss`, n >= 2.
    temperature, levels, centering
        As in :func:`structure_loss`, which has to be given the same.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If `frozen` is not (n, d0) with n >= 2, or an option is out of range.

    See Also
    --------
    structure_loss : Takes it as its first argument.

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
    >>> now = structure_loss(prepared, aligned, levels=2)
    >>> torch.allclose(now, structure_loss(frozen, aligned, levels=2))
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
        return len(self.walks[0])

    def __repr__(self) -> str:
        """Return the rows and the options."""
        return (
            f"FrozenStructure(rows={len(self)}, temperature={self.temperature}, "
            f"levels={self.levels}, centering={self.centering!r})"
        )


def log_walks(P: list[Tensor], temperature: float, levels: int) -> list[Tensor]:
    """log Pˡ for l = 1 … L, (n, n) each, of centred unit rows [X] or of prepared walks."""
    if len(P) > 1:
        every, like = slice(None), torch.empty_like
        return [frozen_tile(P, l, every, like(P[l])).log() for l in range(1, levels + 1)]
    log_P = log_transition_matrix(gram(P[0]), temperature=temperature)
    walks, P_1 = [log_P], log_P.exp()
    P_l = P_1
    for _ in range(levels - 1):
        P_l = P_l @ P_1
        # Finite where a walk is too unlikely for the dtype.
        walks.append(P_l.clamp_min(torch.finfo(P_l.dtype).tiny).log())
    return walks
