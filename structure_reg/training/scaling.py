"""Mean 0 and variance 1 for the columns of the training pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from structure_reg._checks import check_width
from structure_reg.heads.columns import columns


def scaling(x: Tensor, standardise: bool) -> tuple[Tensor, Tensor]:
    """Mean and factor of every column, 0 and 1 without."""
    if not standardise:
        return torch.zeros_like(x[0]), torch.ones_like(x[0])
    X = columns("Aligner.fit", "features", x, standardise=True)
    return X.mean.to(x.dtype), X.factor.to(x.dtype)


def scaled(function: str, name: str, x: Tensor, by: tuple[Tensor, ...]) -> Tensor:
    mean, factor = by
    check_width(function, name, x, len(mean), "it was fitted on")
    return (x.to(mean.device) - mean) * factor
