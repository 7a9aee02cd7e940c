"""The options of the STRUCTURE term that its kernels read."""

from __future__ import annotations

from typing import NamedTuple


class WalkOptions(NamedTuple):
    """Which walks are compared, and how. The operator in `structure.py` takes the fields flat."""

    temperature: float  # τ of both softmaxes
    levels: int  # L, the longest walk
    divergence: str  # a key of `DIVERGENCE_TILES`
