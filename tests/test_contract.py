"""The laws, each over every row of the table of promises."""

from __future__ import annotations

import inspect
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import oracles_neighbours
import pytest
import scipy.sparse
import torch
from array_kinds import BY_COLUMN, KINDS, WIDENING
from contract import (
    IDS,
    PROMISES,
    TESTED_IN,
    Options,
    Promise,
    Tensors,
    normal,
    one_width,
    two_widths,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import structure_reg as sr

N = len(IDS)
VARIANTS = [
    pytest.param(name, options, id=f"{name}-{index}")
    for name, promise in PROMISES.items()
    for index, options in enumerate(promise.variants)
]
DIFFERENTIABLE = [case for case in VARIANTS if PROMISES[str(case.values[0])].gradient]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS)
every_gradient = pytest.mark.parametrize(("name", "options"), DIFFERENTIABLE)
every_loss = pytest.mark.parametrize(
    ("name", "options"), [case for case in VARIANTS if PROMISES[str(case.values[0])].by_sample]
)
every_function = pytest.mark.parametrize("name", PROMISES)
every_array_function = pytest.mark.parametrize(
    "name", [name for name, promise in PROMISES.items() if promise.arrays]
)


def call(name: str, tensors: Tensors, options: Options) -> Tensor:
    """The function's value; a tuple of scalars becomes one vector."""
    value = getattr(sr, name)(*tensors, **options)
    return torch.stack(value) if isinstance(value, tuple) else value


def inputs(name: str, n: int = N, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensors:
    return tuple(x.to(dtype) for x in PROMISES[name].inputs(n, seed))


def gradients(name: str, tensors: Tensors, options: Options) -> list[Tensor]:
    leaves = [
        x.clone().requires_grad_() if i in PROMISES[name].gradient else x
        for i, x in enumerate(tensors)
    ]
    value = call(name, tuple(leaves), options)
    # Weights that differ: those of a plain sum would hide errors that cancel over the samples.
    (value * normal(*value.shape, seed=7).to(value)).sum().backward()
    return [leaves[i].grad for i in PROMISES[name].gradient]


def to_numpy(options: Options) -> Options:
    return {k: v.numpy() if isinstance(v, Tensor) else v for k, v in options.items()}


def test_the_table_is_the_public_namespace() -> None:
    twins = [promise.twin.__name__ for promise in PROMISES.values() if promise.twin]
    assert sorted([*PROMISES, *twins, *TESTED_IN]) == sorted(sr.__all__)
    for name, file in TESTED_IN.items():
        assert name in (Path(__file__).parent / file).read_text(), f"{name} is not in {file}"


@every_variant
@settings(max_examples=15, deadline=None)
@given(n=st.integers(2, 30), seed=st.integers(0, 2**20))
def test_equals_its_oracle(name: str, options: Options, n: int, seed: int) -> None:
    n = max(n, PROMISES[name].least)
    if "ids" in options:
        options = {**options, "ids": torch.arange(n) % max(1, n // 3)}
    tensors = inputs(name, n, seed)
    expected = PROMISES[name].oracle(*(x.numpy() for x in tensors), **to_numpy(options))
    np.testing.assert_allclose(call(name, tensors, options), expected, rtol=1e-9, atol=1e-9)


@every_gradient
def test_gradient_is_the_derivative(name: str, options: Options) -> None:
    tensors = inputs(name, 6)
    if "ids" in options:
        options = {**options, "ids": IDS[:6]}
    leaves = tuple(x.requires_grad_(i in PROMISES[name].gradient) for i, x in enumerate(tensors))
    assert torch.autograd.gradcheck(lambda *x: call(name, x, options), leaves)
    if PROMISES[name].twice:
        assert torch.autograd.gradgradcheck(lambda *x: call(name, x, options), leaves)
        return
    value = call(name, leaves, options)
    chosen = [leaves[i] for i in PROMISES[name].gradient]
    first = torch.autograd.grad(value.sum(), chosen, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"^{name}: expected to be differentiated once"):
        sum(x.square().sum() for x in first).backward()


@every_variant
def test_invariant_to_what_is_declared_and_to_no_more(name: str, options: Options) -> None:
    tensors = inputs(name)
    value = call(name, tensors, options)
    for change, holds in PROMISES[name].invariant(options).items():
        changed = call(name, change(*tensors), options)
        close = torch.allclose(changed, value, rtol=1e-9, atol=1e-11)
        assert close == holds, f"{name} under {change.__name__}"


@every_variant
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stays_in_its_range(name: str, options: Options, dtype: torch.dtype) -> None:
    low, high = PROMISES[name].bounds(options, N)
    for seed in range(5):
        value = call(name, inputs(name, seed=seed, dtype=dtype), options)
        assert low - 1e-6 <= value.min()
        assert value.max() <= high + 1e-6


@every_loss
def test_order_of_the_samples_does_not_matter(name: str, options: Options) -> None:
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    permuted = {**options, "ids": options["ids"][order]} if "ids" in options else options
    value = call(name, inputs(name), options)
    moved = call(name, tuple(x[order] for x in inputs(name)), permuted)
    torch.testing.assert_close(moved, value[order] if value.ndim else value, rtol=1e-9, atol=1e-12)


@every_loss
def test_reductions_agree(name: str, options: Options) -> None:
    rows, mean, total = (
        call(name, inputs(name), {**options, "reduction": r}) for r in ("none", "mean", "sum")
    )
    assert rows.shape == (N,)
    torch.testing.assert_close(rows.mean(), mean)
    torch.testing.assert_close(rows.sum(), total)


def one_hot(n: int, classes: int, seed: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[torch.arange(n) % classes].roll(seed, 0)


# Rows as classes and captions bring them: equal on one side or on both, in groups or all of them.
TIED_ROWS = {
    "one-hot": (one_hot(24, 3, 0), one_hot(24, 4, 1)),
    "copies": (normal(8, 6, seed=0).repeat(3, 1), normal(12, 4, seed=1).repeat_interleave(2, 0)),
    "directions": (one_hot(24, 4, 0) * normal(24, 1, seed=2).exp(), normal(24, 4, seed=3)),
    "one collapsed": (torch.full((24, 6), 0.3, dtype=torch.float64), normal(24, 4, seed=4)),
}
every_tie = pytest.mark.parametrize("tied", TIED_ROWS.values(), ids=TIED_ROWS)
SIMILARITIES = [
    name
    for name, promise in PROMISES.items()
    if promise.paired and promise.inputs in (one_width, two_widths) and not promise.by_sample
]
COUNTS = [name for name in SIMILARITIES if name.endswith("_knn")]


@every_tie
@pytest.mark.parametrize("name", [name for name in SIMILARITIES if name not in COUNTS])
def test_order_of_tied_rows_does_not_matter(name: str, tied: Tensors) -> None:
    tensors = tuple(x[:, :3] for x in tied)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    value = call(name, tensors, {})
    moved = call(name, tuple(x[order] for x in tensors), {})
    torch.testing.assert_close(moved, value, rtol=1e-9, atol=1e-9, equal_nan=True)


@every_tie
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", COUNTS)
def test_ties_are_broken_on_each_side_by_itself(
    name: str, dtype: torch.dtype, tied: Tensors
) -> None:
    """The mean over orders of the rows is the mean over orders of the ties."""
    x, y = (z.to(dtype) for z in tied)
    g = torch.Generator().manual_seed(0)
    orders = [torch.randperm(24, generator=g) for _ in range(60)]
    found = torch.stack([call(name, (x[o], y[o]), {"k": 3}) for o in orders]).double()
    if (x == x[0]).all():
        assert found.isnan().all()
        return
    oracle = getattr(oracles_neighbours, name)
    expected = oracles_neighbours.mean_over_ties(oracle, x.numpy(), y.numpy(), 3)
    error = found.std().item() * (1 / 60 + 1 / 200) ** 0.5
    assert found.mean().item() == pytest.approx(expected, abs=4 * error + 1e-6)


@every_function
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
def test_computes_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    value = call(name, inputs(name, dtype=dtype), {})
    assert value.dtype == torch.promote_types(dtype, torch.float32)


@every_gradient
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_low_precision_gradient(name: str, options: Options, dtype: torch.dtype) -> None:
    tensors = inputs(name, dtype=dtype)
    exact = gradients(name, tuple(x.double() for x in tensors), options)
    for ours, true in zip(gradients(name, tensors, options), exact, strict=True):
        assert ours.dtype == dtype
        error = (ours.double() - true).norm() / true.norm()
        assert error <= PROMISES[name].half_tolerance[dtype]


@every_variant
def test_autocast_changes_no_bit(name: str, options: Options) -> None:
    tensors = inputs(name, dtype=torch.float32)
    plain = call(name, tensors, options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(call(name, tensors, options), plain)


@every_gradient
def test_one_graph_under_compile(name: str, options: Options) -> None:
    torch.compiler.reset()
    function = getattr(sr, name)
    compiled = torch.compile(
        lambda *x: function(*x, **options), fullgraph=True, backend="aot_eager"
    )
    tensors = inputs(name)
    leaves = [
        x.clone().requires_grad_() if i in PROMISES[name].gradient else x
        for i, x in enumerate(tensors)
    ]
    value = compiled(*leaves)
    torch.testing.assert_close(value, call(name, tensors, options))
    (value * normal(*value.shape, seed=7).to(value)).sum().backward()
    expected = gradients(name, tensors, options)
    for i, true in zip(PROMISES[name].gradient, expected, strict=True):
        torch.testing.assert_close(leaves[i].grad, true)


@every_variant
def test_needs_no_values(name: str, options: Options) -> None:
    """On the meta device there are none: whatever read one would fail here, or wait on a GPU."""
    tensors = inputs(name)
    on_meta = {k: v.to("meta") if isinstance(v, Tensor) else v for k, v in options.items()}
    value = call(name, tuple(x.to("meta") for x in tensors), on_meta)
    expected = call(name, tensors, options)
    assert (value.shape, value.dtype) == (expected.shape, expected.dtype)


@every_variant
def test_leaves_its_inputs_alone(name: str, options: Options) -> None:
    tensors = inputs(name)
    before = [x.clone() for x in tensors]
    call(name, tensors, options)
    assert all(torch.equal(x, b) for x, b in zip(tensors, before, strict=True))


@every_function
def test_nan_in_nan_out(name: str) -> None:
    for position in range(len(inputs(name))):
        tensors = inputs(name)
        tensors[position][1, 0] = torch.nan
        assert call(name, tensors, {}).isnan().any()


@every_function
def test_refuses_what_is_no_float_tensor(name: str) -> None:
    tensors = inputs(name)
    for position, x in enumerate(tensors):
        refused = [(x.long(), "torch.int64"), (None, "NoneType"), (x.to_sparse(), "to_dense[(][)]")]
        if PROMISES[name].arrays:
            masked = np.ma.masked_greater(x.numpy(), 0)
            refused += [(x.long().numpy(), "torch.int64"), (x.numpy().astype(str), "dtype <U32")]
            refused += [(masked, str(masked.mask.sum())), (scipy.sparse.csr_array(x), "toarray.*")]
        else:
            refused.append((x.numpy(), "ndarray"))
        for bad, got in refused:
            arguments = (*tensors[:position], bad, *tensors[position + 1 :])
            with pytest.raises(
                (TypeError, ValueError), match=rf"^{name}: expected \w+ .*, got .*{got}$"
            ):
                call(name, arguments, {})


@every_array_function
@pytest.mark.parametrize("kind", KINDS)
def test_an_array_counts_as_the_tensor_of_its_numbers(name: str, kind: str) -> None:
    for dtype in (torch.float64, torch.float32):
        tensors = inputs(name, dtype=dtype)
        expected = call(name, tensors, {})
        for arguments in (map(KINDS[kind], tensors), (KINDS[kind](tensors[0]), *tensors[1:])):
            found = call(name, tuple(arguments), {})
            torch.testing.assert_close(found, expected.to(found.dtype), rtol=1e-4, atol=1e-6)
            if kind not in WIDENING | BY_COLUMN:
                assert torch.equal(found, expected)


@every_variant
def test_numpy_scalars_count_as_python_numbers(name: str, options: Options) -> None:
    kinds = {bool: np.bool_, int: np.int64, float: np.float32}
    as_numpy = {k: kinds[type(v)](v) if type(v) in kinds else v for k, v in options.items()}
    as_python = {k: v.item() if isinstance(v, np.generic) else v for k, v in as_numpy.items()}
    tensors = inputs(name, dtype=torch.float32)
    assert torch.equal(call(name, tensors, as_numpy), call(name, tensors, as_python))


@every_function
def test_refuses_what_does_not_fit(name: str) -> None:
    tensors = inputs(name)
    misfits: list[Tensors] = [tuple(x[0] for x in tensors[:1]) + tensors[1:]]
    if PROMISES[name].paired:
        misfits += [
            (tensors[0], tensors[1][:-1]),
            (tensors[0], tensors[1].to("meta")),
            (tensors[0][None], tensors[1]),
        ]
    for arguments in misfits:
        with pytest.raises(ValueError, match=rf"^{name}: expected .*, got "):
            call(name, arguments, {})


@every_function
def test_refuses_bad_options(name: str) -> None:
    for options, error in PROMISES[name].bad_options:
        (option,) = options
        with pytest.raises(error, match=rf"^{name}: expected .*{option}.*, got "):
            call(name, inputs(name), options)


TWINS = [name for name, promise in PROMISES.items() if promise.twin]


@pytest.mark.parametrize(("name", "options"), [c for c in VARIANTS if c.values[0] in TWINS])
def test_the_module_is_the_function(name: str, options: Options) -> None:
    promise = PROMISES[name]
    in_call = {k: v for k, v in options.items() if k in promise.call_options}
    module = twin(promise)(**{k: v for k, v in options.items() if k not in promise.call_options})
    tensors = inputs(name)
    assert torch.equal(module(*tensors, **in_call), call(name, tensors, options))
    assert not module.state_dict()
    assert all(f"{k}=" in repr(module) for k in options if k not in promise.call_options)


@pytest.mark.parametrize("name", TWINS)
def test_the_module_has_the_options_of_the_function(name: str) -> None:
    promise = PROMISES[name]
    function = inspect.signature(getattr(sr, name)).parameters
    constructor = inspect.signature(twin(promise)).parameters
    forward = inspect.signature(twin(promise).forward).parameters
    described = {**constructor, **forward}
    del described["self"]
    assert {k: (p.default, p.kind) for k, p in described.items()} == {
        k: (p.default, p.kind) for k, p in function.items()
    }
    for options, error in promise.bad_options:
        (option,) = options
        if option not in promise.call_options:
            with pytest.raises(error, match=rf"^{twin(promise).__name__}: expected .*{option}"):
                twin(promise)(**options)


def twin(promise: Promise) -> Any:
    assert promise.twin is not None
    return promise.twin


@pytest.mark.parametrize("name", TWINS)
def test_refuses_what_is_no_process_group(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected group to be .*, got str$"):
        call(name, inputs(name), {"group": "world"})
    twin_name = twin(PROMISES[name]).__name__
    with pytest.raises(TypeError, match=f"^{twin_name}: expected group to be .*, got str$"):
        twin(PROMISES[name])(group="world")


def test_every_bound_is_a_bound() -> None:
    assert all(p.bounds({}, N) != (-inf, inf) for p in PROMISES.values() if p.by_sample)
