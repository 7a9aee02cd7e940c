"""Pooling equals its definition token by token, and ignores padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from contract import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from structure_reg import extract_features

POOLS = ("cls", "mean", "last")


def pooled(x: Tensor, shown: Tensor | None, pool: Any, **options: Any) -> Tensor:
    """Extract from a module that returns x unchanged."""
    batch = {"input": x} if shown is None else {"input": x, "attention_mask": shown}
    return extract_features(Passes(), [batch], layers=["same"], pool=pool, **options)["same"]


class Passes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = nn.Identity()

    def forward(self, input: Tensor, attention_mask: Tensor | None = None) -> Tensor:  # noqa: A002, ARG002
        return self.same(input)


def by_definition(x: np.ndarray, mask: np.ndarray, pool: str) -> np.ndarray:
    rows = []
    for tokens, shown in zip(x, mask, strict=True):
        kept = [token for token, is_token in zip(tokens, shown, strict=True) if is_token]
        rows.append({"cls": kept[0], "last": kept[-1], "mean": sum(kept) / len(kept)}[pool])
    return np.stack(rows)


def some_mask(b: int, length: int, seed: int) -> Tensor:
    """A random mask with at least one token in each row."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(b, length, generator=generator) < 0.5
    mask[torch.arange(b), torch.randint(length, (b,), generator=generator)] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    b=st.integers(1, 6),
    length=st.integers(1, 9),
    d=st.integers(1, 5),
    pool=st.sampled_from(POOLS),
    as_dtype=st.sampled_from([torch.bool, torch.int64, torch.float32]),
    seed=st.integers(0, 2**20),
)
def test_is_its_definition_under_any_mask(
    b: int, length: int, d: int, pool: str, as_dtype: torch.dtype, seed: int
) -> None:
    x, mask = normal(b, length, d, seed=seed), some_mask(b, length, seed)
    expected = by_definition(x.numpy(), mask.numpy(), pool)
    # A mean of terms near 1 may be near 0; its error is then that of their rounding.
    np.testing.assert_allclose(pooled(x, mask.to(as_dtype), pool), expected, rtol=1e-13, atol=1e-15)
    if mask.all():
        np.testing.assert_allclose(pooled(x, None, pool), expected, rtol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    extra=st.integers(0, 4),
    pool=st.sampled_from(POOLS),
    pad=st.sampled_from([0.0, 1e30, float("nan"), float("inf")]),
)
def test_is_blind_to_pads_and_their_side(
    lengths: list[int], extra: int, pool: str, pad: float
) -> None:
    texts = [normal(n, 3, seed=i) for i, n in enumerate(lengths)]
    longest = max(lengths) + extra
    right, left = (torch.full((len(texts), longest, 3), pad, dtype=torch.float64) for _ in "rl")
    for i, text in enumerate(texts):
        right[i, : len(text)], left[i, longest - len(text) :] = text, text
    shown = torch.arange(longest) < torch.tensor(lengths)[:, None]
    alone = torch.cat([pooled(text[None], None, pool) for text in texts])
    torch.testing.assert_close(pooled(right, shown, pool), alone, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(pooled(left, shown.flip(1), pool), alone, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_means_are_in_float32(dtype: torch.dtype) -> None:
    x = (1000 + normal(2, 4096, 3, seed=0)).to(dtype)
    mask = some_mask(2, 4096, 0)
    for shown in (mask, None):
        kept = torch.ones_like(mask) if shown is None else shown
        exact = by_definition(x.double().numpy(), kept.numpy(), "mean")
        mean = pooled(x, shown, "mean")
        assert mean.dtype == torch.float32
        np.testing.assert_allclose(mean, exact, rtol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(pooled(x, shown, "mean"), mean)
    assert pooled(x, mask, "last").dtype == dtype
    assert pooled(x, mask, "mean", dtype=torch.float16).dtype == torch.float16


def test_averages_maps_over_all_their_places() -> None:
    for shape in ((2, 3, 4, 5), (2, 3, 4, 5, 2)):
        x = normal(*shape, seed=0)
        expected = np.reshape(x.numpy(), (2, 3, -1)).mean(-1)
        np.testing.assert_allclose(pooled(x, None, "mean"), expected)


def test_leaves_rows_as_they_are() -> None:
    x = normal(4, 3, seed=0)
    for pool in POOLS:
        assert torch.equal(pooled(x, torch.ones(4, 7), pool), x)


def test_a_function_gets_the_output_and_the_mask() -> None:
    x, mask = normal(3, 4, 5, seed=0), some_mask(3, 4, 0)
    largest = pooled(x, mask, lambda x, mask: x.masked_fill(~mask[..., None], -9.0).amax(1))
    assert torch.equal(largest, x.where(mask[..., None], torch.tensor(-9.0)).amax(1))
    assert torch.equal(pooled(x, None, lambda x, mask: x[:, 1] if mask is None else None), x[:, 1])


def test_the_mask_may_come_from_a_function() -> None:
    x = normal(3, 4, 5, seed=0)
    x[:, 2:] = 0
    mean = pooled(x, None, "mean", mask=lambda batch: batch["input"].abs().sum(-1) > 0)
    torch.testing.assert_close(mean, x[:, :2].mean(1))
    whole = pooled(x, torch.ones(3, 9), "mean", mask=lambda _: None)
    torch.testing.assert_close(whole, x.mean(1))


@pytest.mark.parametrize(
    ("x", "mask", "pool", "message"),
    [
        (torch.ones(2, 3, 4, 4), None, "cls", r"pool='mean' or a function for maps .*'cls' for"),
        (torch.ones(2, 3, 4), torch.ones(2, 5), "mean", r"mask of shape \(2, 3\) .*got \(2, 5\)$"),
        (torch.ones(2, 3, 4), torch.tensor([[0, 1, 1], [0, 0, 0]]), "cls", r"none in rows 1 of a"),
        (torch.ones(5), None, "mean", r"\(B, L, d\) tokens .*got shape \(5,\)$"),
        (torch.ones(2, 3, 4), None, lambda x, _: x, r"pool to return .*, got torch.float32 of sha"),
        (torch.ones(2, 3, 4), None, lambda _x, _: 3, r"pool to return floats .*, got int$"),
        (torch.ones(2, 3, 4), None, "max", r"pool to be one of 'cls', 'mean', 'last', got 'max'$"),
    ],
)
def test_refuses_what_cannot_be_pooled(x: Tensor, mask: Any, pool: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^extract_features: expected .*{message}"):
        pooled(x, mask, pool)


def test_refuses_a_mask_that_is_no_tensor() -> None:
    for pool in ("mean", lambda x, _mask: x[:, 0]):
        with pytest.raises(TypeError, match=r"expected the mask to be a tensor, got list$"):
            pooled(torch.ones(2, 3, 4), None, pool, mask=lambda _: [[1, 1, 1], [1, 1, 1]])
