"""CKA batch by batch: CKA is exact, MinibatchCKA is an average over batches."""

from __future__ import annotations

import oracles_cka as oracles
import pytest
import torch
from torch import Tensor

from structure_reg import CKA, MinibatchCKA, cka


def pair(n: int, dx: int, dy: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(n)
    x = torch.randn(n, dx, generator=g, dtype=torch.float64)
    y = x @ torch.randn(dx, dy, generator=g, dtype=torch.float64)
    y = y + 3 * torch.randn(n, dy, generator=g, dtype=torch.float64)
    return x.to(dtype), y.to(dtype)


def streamed(x: Tensor, y: Tensor, sizes: list[int], debiased: bool = True) -> Tensor:
    stream = CKA(debiased=debiased)
    for x_batch, y_batch in zip(x.split(sizes), y.split(sizes), strict=True):
        stream.update(x_batch, y_batch)
    return stream.compute()


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("sizes", [[50], [1] * 50, [3, 1, 40, 6], [25, 25]])
@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_any_batches_give_the_value_of_all_samples(
    debiased: bool, sizes: list[int], shift: float
) -> None:
    x, y = pair(50, 6, 9)
    expected = cka(x, y, debiased=debiased)
    value = streamed(x + shift, y - 3 * shift, sizes, debiased)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)


def test_float32_features_of_large_mean_and_odd_scale() -> None:
    x, y = pair(300, 60, 40, torch.float32)
    x, y = 1e-6 * (x + 100), 1e10 * (y + 100)
    value = streamed(x, y, [64, 64, 64, 64, 44])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.item(), oracles.cka(x, y), rtol=1e-6, atol=1e-6)


def test_all_batches_count() -> None:
    """Similar batches could not detect a stream that reports only its last batch."""
    x, y = pair(40, 5, 5)
    x = x + torch.arange(40).double()[:, None]
    assert (streamed(x, y, [20, 20]) - cka(x[20:], y[20:])).abs() > 0.05


def test_forgets_when_reset() -> None:
    x, y = pair(40, 5, 5)
    stream = CKA()
    stream.update(100 * y, x)
    stream.reset()
    stream.update(x, y)
    torch.testing.assert_close(stream.compute(), cka(x, y))
    assert repr(stream) == "CKA(debiased=True, samples=40)"


def test_computing_does_not_end_the_stream() -> None:
    x, y = pair(40, 5, 5)
    stream = CKA()
    stream.update(x[:20], y[:20])
    torch.testing.assert_close(stream.compute(), cka(x[:20], y[:20]))
    stream.update(x[20:], y[20:])
    torch.testing.assert_close(stream.compute(), cka(x, y))


def test_a_constant_side_is_nan() -> None:
    assert streamed(torch.full((9, 3), 0.1), torch.randn(9, 2), [4, 5]).isnan()


def test_minibatch_is_the_ratio_of_averages_and_not_the_full_value() -> None:
    x, y = pair(60, 6, 9)
    stream = MinibatchCKA()
    batches = list(zip(x.split([10, 10, 25, 15]), y.split([10, 10, 25, 15]), strict=True))
    for batch in batches:
        stream.update(*batch)
    expected = oracles.minibatch_cka(batches)
    torch.testing.assert_close(stream.compute().item(), expected)
    assert abs(expected - cka(x, y).item()) > 1e-3
    stream.reset()
    stream.update(x, y)
    torch.testing.assert_close(stream.compute(), cka(x, y))
    assert repr(stream) == "MinibatchCKA(batches=1)"


def test_minibatch_keeps_batches_comparable() -> None:
    """A batch of larger scale weighs more; scaling each batch separately would lose that."""
    x, y = pair(40, 6, 9)
    x = torch.cat([x[:20], 10 * x[20:]])
    stream = MinibatchCKA()
    batches = list(zip(x.split(20), y.split(20), strict=True))
    for batch in batches:
        stream.update(*batch)
    torch.testing.assert_close(stream.compute().item(), oracles.minibatch_cka(batches))


def test_refuses() -> None:
    x, y = pair(10, 3, 4)
    with pytest.raises(ValueError, match=r"CKA\.compute: expected samples >= 4, got 0"):
        CKA().compute()
    stream = CKA()
    stream.update(x[:3], y[:3])
    with pytest.raises(ValueError, match=r"expected samples >= 4, got 3"):
        stream.compute()
    with pytest.raises(ValueError, match="expected x with the 3 columns of the batches before"):
        stream.update(y, x)
    with pytest.raises(ValueError, match="same number of rows"):
        stream.update(x, y[:5])
    with pytest.raises(ValueError, match="n >= 4 rows"):
        MinibatchCKA().update(x[:3], y[:3])
    with pytest.raises(ValueError, match="expected batches >= 1, got 0"):
        MinibatchCKA().compute()
