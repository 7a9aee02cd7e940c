"""The error of the kernels, in the voice of :mod:`structure_reg._checks`."""

from __future__ import annotations


def no_second_derivative(function: str, instead: str) -> NotImplementedError:
    return NotImplementedError(
        f"{function}: expected to be differentiated once, got a second derivative, which the "
        f"hand-written gradient does not have; the plain form has it, {instead}"
    )
