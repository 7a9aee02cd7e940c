"""The median distance, from one sort and digit by digit."""

from __future__ import annotations

import pytest
import torch
from scipy.spatial.distance import pdist

from structure_reg import tile_budget
from structure_reg.similarity.bandwidth import median_squared_distance


def middle(x: torch.Tensor) -> float:
    distances = torch.from_numpy(pdist(x.double().numpy(), "sqeuclidean")).sort().values
    return distances[(len(distances) - 1) // 2].item()


@pytest.mark.parametrize("mebibytes", [64, 0.01])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 3, 4, 101, 130])
def test_is_the_lower_median(n: int, dtype: torch.dtype, mebibytes: float) -> None:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(n), dtype=dtype)
    with tile_budget(mebibytes):
        assert median_squared_distance(x).item() == pytest.approx(middle(x), rel=2e-5)


@pytest.mark.parametrize("mebibytes", [64, 0.01])
def test_is_zero_when_most_rows_are_equal_and_nan_of_nan(mebibytes: float) -> None:
    x = torch.ones(120, 3)
    x[0] = 2
    with tile_budget(mebibytes):
        assert median_squared_distance(x) == 0
        assert median_squared_distance(x * torch.nan).isnan()


@pytest.mark.parametrize("mebibytes", [64, 0.01])
def test_has_the_gradient_of_the_median_pair(mebibytes: float) -> None:
    x = torch.randn(91, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x.requires_grad_()
    with tile_budget(mebibytes):
        (gradient,) = torch.autograd.grad(median_squared_distance(x), x)
    rows = gradient.abs().sum(1).nonzero().flatten()
    assert len(rows) == 2
    i, j = rows
    torch.testing.assert_close(gradient[i], 2 * (x[i] - x[j]).detach())
