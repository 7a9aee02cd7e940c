"""One thread, and the imports that the reference pages state for the examples of docstrings."""

from typing import Any

import pytest
import torch

import structure_reg

# The tests are many small computations: more threads only wait for one another.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, Any]) -> None:
    doctest_namespace["torch"] = torch
    doctest_namespace.update({name: getattr(structure_reg, name) for name in structure_reg.__all__})
