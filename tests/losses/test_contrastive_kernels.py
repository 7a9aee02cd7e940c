"""The tiled forms of the contrastive losses, against NumPy in float64 and against autograd.

A budget of nothing leaves tiles of 16 rows, so that small batches take several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor
from torch.autograd.gradcheck import gradcheck, gradgradcheck

from structure_reg import clip_loss, siglip_loss, tile_budget

N, D = 37, 5  # three tiles, the last of 5 rows
IDS = torch.arange(N) * 7 % 11
LOSSES = pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
TARGETS = pytest.mark.parametrize("ids", [None, IDS])


@contextmanager
def kernel(tiles: str) -> Iterator[None]:
    """Force the tiled form: with logits made again ("many"), or kept ("kept").

    The budget of the second is 84 rows of N logits: it keeps all of them, and 16 if there are ids.
    """
    with (
        tile_budget(1e-9 if tiles == "many" else 84 * 8 * N / 2**20),
        patch("structure_reg.losses.clip.TILE_ROWS", 16),
    ):
        yield


def features(
    seed: int = 0, n: int = N, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n, D, generator=generator, dtype=torch.float64)
    y += 2 * x  # partners are alike
    return x.to(dtype).requires_grad_(), y.to(dtype).requires_grad_()


def scalars(*values: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    return tuple(torch.tensor(value, dtype=dtype, requires_grad=True) for value in values)


def arguments(loss: Callable[..., Tensor], **options: Any) -> tuple[Tensor, ...]:
    values = (12.0,) if loss is clip_loss else (12.0, -4.0)
    return *features(**options), *scalars(*values, dtype=options.get("dtype", torch.float64))


def cosines(x: Tensor, y: Tensor) -> np.ndarray:
    x, y = (t.detach().numpy().astype(np.float64) for t in (x, y))
    return (x / np.linalg.norm(x, axis=1)[:, None]) @ (y / np.linalg.norm(y, axis=1)[:, None]).T


def partners(ids: Tensor | None, n: int) -> np.ndarray:
    return np.eye(n, dtype=bool) if ids is None else np.equal.outer(ids.numpy(), ids.numpy())


def clip_by_numpy(
    x: Tensor, y: Tensor, s: Tensor, ids: Tensor | None, smoothing: float
) -> np.ndarray:
    """Cross-entropies to explicit targets, an n x n matrix each way."""
    Z = s.item() * cosines(x, y)
    T = partners(ids, len(Z)) / partners(ids, len(Z)).sum(1)[:, None]
    T = (1 - smoothing) * T + smoothing / len(Z)
    return -((T * log_softmax(Z, 1)).sum(1) + (T * log_softmax(Z.T, 1)).sum(1)) / 2


def siglip_by_numpy(x: Tensor, y: Tensor, s: Tensor, b: Tensor, ids: Tensor | None) -> np.ndarray:
    t = np.where(partners(ids, len(x)), 1, -1)
    return np.logaddexp(0, -t * (s.item() * cosines(x, y) + b.item())).sum(1)


def gradients(value: Tensor, inputs: tuple[Tensor, ...], upstream: Tensor | None = None) -> Any:
    return torch.autograd.grad(value, inputs, upstream)


@pytest.mark.parametrize("tiles", ["many", "kept"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@TARGETS
def test_clip_rows_are_those_of_numpy(tiles, smoothing, ids):
    x, y, s = arguments(clip_loss)
    with kernel(tiles):
        rows = clip_loss(x, y, s, ids=ids, label_smoothing=smoothing, reduction="none")
    expected = clip_by_numpy(x, y, s, ids, smoothing)
    np.testing.assert_allclose(rows.detach(), expected, rtol=0, atol=1e-13)


@TARGETS
def test_siglip_rows_are_those_of_numpy(ids):
    x, y, s, b = arguments(siglip_loss)
    expected = siglip_by_numpy(x, y, s, b, ids)
    with kernel("many"):
        rows = siglip_loss(x, y, s, b, ids=ids, reduction="none").detach()
        np.testing.assert_allclose(rows, expected, rtol=1e-13)
        # "mean" and "sum" take another way, which makes the gradient too.
        for reduction, of_rows in (("mean", np.mean), ("sum", np.sum)):
            value = siglip_loss(x, y, s, b, ids=ids, reduction=reduction).detach()
            np.testing.assert_allclose(value, of_rows(expected), rtol=1e-13)


@pytest.mark.parametrize("tiles", ["many", "kept"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@TARGETS
@LOSSES
def test_gradcheck(loss, tiles, reduction, ids):
    options = {"label_smoothing": 0.1} if loss is clip_loss and ids is not None else {}
    inputs = arguments(loss, n=19)
    ids = ids if ids is None else ids[:19]
    with kernel(tiles):
        assert gradcheck(
            lambda *inputs: loss(*inputs, ids=ids, reduction=reduction, **options),
            inputs,
            fast_mode=True,
        )


@pytest.mark.parametrize("tiles", ["many", "kept"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@TARGETS
@LOSSES
def test_gradients_are_those_of_the_plain_form(loss, tiles, reduction, ids):
    inputs = arguments(loss)
    upstream = torch.linspace(-1, 2, N, dtype=torch.float64) if reduction == "none" else None
    plain = gradients(loss(*inputs, ids=ids, reduction=reduction), inputs, upstream)
    with kernel(tiles):
        tiled = gradients(loss(*inputs, ids=ids, reduction=reduction), inputs, upstream)
    for ours, expected in zip(tiled, plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("wanted", range(1, 15))
@pytest.mark.parametrize("reduction", ["mean", "none"])
@LOSSES
def test_any_part_of_the_gradient_can_be_left_out(loss, wanted, reduction):
    inputs = arguments(loss)
    wanted = [bool(wanted >> i & 1) for i in range(len(inputs))]
    if not any(wanted):
        return
    whole = gradients(loss(*inputs, reduction=reduction).sum(), inputs)
    some = [t if want else t.detach() for t, want in zip(inputs, wanted, strict=True)]
    with kernel("many"):
        loss(*some, reduction=reduction).sum().backward()
    for t, want, expected in zip(inputs, wanted, whole, strict=True):
        assert (t.grad is not None) == want
        if want:
            torch.testing.assert_close(t.grad, expected, rtol=1e-12, atol=1e-13)


@LOSSES
def test_backward_twice_over_one_graph(loss):
    inputs = arguments(loss)
    with kernel("many"):
        value = loss(*inputs)
        first = torch.autograd.grad(value, inputs, retain_graph=True)
        second = torch.autograd.grad(value, inputs)
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@LOSSES
def test_the_second_derivative_is_refused_in_tiles(loss, reduction):
    inputs = arguments(loss)
    with kernel("many"):
        d_x, *_ = torch.autograd.grad(
            loss(*inputs, reduction=reduction).sum(), inputs, create_graph=True
        )
        with pytest.raises(NotImplementedError, match=f"{loss.__name__}: expected to be differ"):
            d_x.sum().backward()


@LOSSES
def test_the_second_derivative_exists_where_the_plain_form_fits(loss):
    assert gradgradcheck(loss, arguments(loss, n=6), fast_mode=True)


def value_and_gradients(form: Callable[..., Tensor], *inputs: Tensor | float) -> list[Tensor]:
    value = form(*inputs)
    return [value.detach().double(), *(g.double() for g in gradients(value, inputs))]


@pytest.mark.parametrize(("scale", "alike"), [(14.3, 0.0), (14.3, 0.5), (100.0, 0.3)])
@LOSSES
def test_no_further_from_float64_than_the_naive_form(loss, scale, alike):
    """The error budget, values and gradients, over eight batches: one rounds up, another down."""
    naive = naive_clip if loss is clip_loss else naive_siglip
    values = (scale,) if loss is clip_loss else (scale, -scale / 2)
    squares = []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        x, y = torch.randn(2, 200, 64, generator=generator)
        y += alike * x
        single, double = (
            (*(t.to(dtype).requires_grad_() for t in (x, y)), *scalars(*values, dtype=dtype))
            for dtype in (torch.float32, torch.float64)
        )
        exact = value_and_gradients(naive, *double)
        with kernel("many"):
            ours = value_and_gradients(loss, *single)
        theirs = value_and_gradients(naive, *single)
        squares.append(
            [
                [((a - b).norm() / b.norm()).square() for a, b in zip(f, exact, strict=True)]
                for f in (ours, theirs)
            ]
        )
    ours, theirs = torch.tensor(squares).mean(0).sqrt()
    assert (ours <= 1.25 * theirs + torch.finfo(torch.float32).eps).all()


def naive_clip(x: Tensor, y: Tensor, s: Tensor) -> Tensor:
    """Two matrices of logits and two cross-entropies, as it is written everywhere."""
    x, y = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    own = torch.arange(len(x))
    cross_entropy = torch.nn.functional.cross_entropy
    return (cross_entropy(s * x @ y.T, own) + cross_entropy(s * y @ x.T, own)) / 2


def naive_siglip(x: Tensor, y: Tensor, s: Tensor, b: Tensor) -> Tensor:
    x, y = torch.nn.functional.normalize(x), torch.nn.functional.normalize(y)
    t = 2 * torch.eye(len(x), dtype=x.dtype) - 1
    return -torch.nn.functional.logsigmoid(t * (s * x @ y.T + b)).sum() / len(x)


def test_clip_keeps_a_loss_far_below_the_logits_it_is_made_of():
    """All found at s = 100: the loss is 3e-6, its logits 100, whose rounding is 8e-6."""
    x = torch.eye(N)[:, : N - 1] * 1.0
    x[-1, :2] = torch.tensor([0.875, 0.4841229])
    with kernel("many"):
        rows = clip_loss(x, x, 100.0, reduction="none")
    Z = 100.0 * cosines(x, x)
    expected = logsumexp(Z, 1) - Z.diagonal()
    assert 3e-6 < expected.max() < 4e-6
    np.testing.assert_allclose(rows, expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@LOSSES
def test_half_precision_is_computed_in_float32(loss, dtype):
    x, y = features(dtype=dtype)
    s = scalars(12.0, dtype=torch.float32) + (() if loss is clip_loss else (-4.0,))
    up = [t.detach().float().requires_grad_() for t in (x, y)]
    with kernel("many"):
        value, same = loss(x, y, *s), loss(*up, *s)
        assert value.dtype == torch.float32
        assert torch.equal(value, same)
        grads, expected = gradients(value, (x, y)), gradients(same, tuple(up))
    for grad, of_float in zip(grads, expected, strict=True):
        assert torch.equal(grad, of_float.to(dtype))


@LOSSES
def test_autocast_changes_nothing(loss):
    inputs = arguments(loss, dtype=torch.float32)
    with kernel("many"):
        expected = loss(*inputs)
        grads = gradients(expected, inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = loss(*inputs)
            under = gradients(value, inputs)
    assert torch.equal(value, expected)
    assert all(map(torch.equal, under, grads))


@pytest.mark.parametrize("x", [torch.zeros(N, D), torch.ones(N, D), 1e-30 * torch.eye(N)[:, :D]])
@LOSSES
def test_zero_equal_and_tiny_rows_are_finite(loss, x):
    x = x.clone().requires_grad_()
    with kernel("many"):
        value = loss(x, x, 100.0)
        value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()
    assert (x.grad[x.detach().abs().amax(1) == 0] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@LOSSES
def test_nan_in_nan_out(loss, bad):
    x, y = features()
    x = x.detach().clone()
    x[3, 2] = bad
    with kernel("many"):
        assert loss(x, y).isnan()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@LOSSES
def test_one_graph_under_compile(loss, reduction):
    inputs = arguments(loss, dtype=torch.float32)
    with kernel("many"):
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        value, expected = (form(*inputs, reduction=reduction) for form in (compiled, loss))
        torch.testing.assert_close(value, expected, rtol=0, atol=0)
        assert all(
            map(torch.equal, gradients(value.sum(), inputs), gradients(expected.sum(), inputs))
        )


@pytest.mark.parametrize("tiles", ["many", "kept"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@LOSSES
def test_meta_shapes(loss, tiles, reduction):
    x = torch.empty(N, D, device="meta", requires_grad=True)
    with kernel(tiles):
        value = loss(x, x, reduction=reduction)
        assert value.shape == ((N,) if reduction == "none" else ())
        value.sum().backward()
    assert x.grad.shape == (N, D)


@pytest.mark.parametrize("tiles", ["many", "kept"])
@TARGETS
@LOSSES
# opcheck reads .grad of copies that it made itself, and hides the warning from all but "error".
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_operators_keep_the_rules_of_torch_library(loss, tiles, ids):
    x, y, s, *b = arguments(loss, n=19)
    ids = ids if ids is None else ids[:19]
    tiling = [0, 16, 0 if tiles == "many" else 16]
    ops = torch.ops.structure_reg
    if loss is clip_loss:
        torch.library.opcheck(ops.clip_statistics.default, (x, y, s, ids, 0.1, tiling))
    else:
        u = torch.ones(19, dtype=torch.float64)
        rest = (x, y, torch.stack([s, *b]).detach().requires_grad_(), ids, tiling)
        torch.library.opcheck(ops.siglip_rows.default, rest)
        # Without the test that differentiates all outputs, of which the gradient refuses it.
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(ops.siglip_sum.default, (u, *rest, [True, True]), test_utils=tests)


def test_the_budget_changes_rounding_alone():
    x, y = features(n=200, dtype=torch.float32)
    values = []
    for mebibytes in (1e-9, 0.01, 0.1, 64.0):
        with tile_budget(mebibytes):
            values.append(clip_loss(x, y, 20.0).detach())
    torch.testing.assert_close(torch.stack(values), values[-1].expand(4), rtol=1e-6, atol=0)


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [1e-6, 1.0, 1024.0, 65536.0, 1e6])
@pytest.mark.parametrize("length", [0.1, 30.0, 1000.0])
def test_a_later_factor_finds_the_gradient_whole(
    loss: Callable[..., Tensor], dtype: torch.dtype, reduction: str, weight: float, length: float
) -> None:
    """A gradient scaler multiplies the loss: half precision held 0 or inf before it divided."""
    gradients = []
    halves = [(length * t.detach()).to(dtype) for t in features()]
    for precision in (dtype, torch.float64):
        leaves = [t.to(precision, copy=True).requires_grad_() for t in halves]
        with kernel("many"):
            (weight * loss(*leaves, 12.0, reduction=reduction)).sum().backward()
        gradients += [[t.grad for t in leaves]]
    for ours, exact in zip(*gradients, strict=True):
        assert ours.dtype == dtype
        expected = exact.to(dtype)
        eps, least = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal
        assert torch.equal(ours.isinf(), expected.isinf())
        torch.testing.assert_close(
            ours, expected, rtol=2 * eps, atol=max(2 * eps * least, 1e-5 * exact.abs().max().item())
        )


@pytest.mark.parametrize("ids", [None, IDS])
def test_exponents_that_underflow(ids: Tensor | None) -> None:
    """At a scale of 300, most of the softmax is below the range of float32."""
    gradients = []
    for dtype in (torch.float32, torch.float64):
        x, y = features(dtype=dtype)
        with kernel("many"):
            rows = clip_loss(x, y, 300.0, ids=ids, reduction="none")
            rows.sum().backward()
        gradients.append([rows.detach().double(), x.grad.double(), y.grad.double()])
    for single, exact in zip(*gradients, strict=True):
        torch.testing.assert_close(single, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())
