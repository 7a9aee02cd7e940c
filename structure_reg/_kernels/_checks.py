"""The error that the kernels raise, worded as in :mod:`structure_reg._checks`."""

from __future__ import annotations


def no_second_derivative(function: str, plain_form: str) -> NotImplementedError:
    """`plain_form` says where the formula runs under autograd, as in "inside torch.func"."""
    return NotImplementedError(
        f"{function}: expected to be differentiated once, got a second derivative, which the "
        f"hand-written gradient does not have; the plain form has it, {plain_form}"
    )
