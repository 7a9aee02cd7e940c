"""KLOT: the tiled form against NumPy in float64 and against the plain form, and its promises.

A budget of nothing leaves tiles of 16 rows, so that small batches take several.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import GROUPS
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck

from structure_reg import klot_loss, tile_budget
from structure_reg._distributed import own_rows
from structure_reg.losses.klot import Regularisation, log_plan, plain_loss

N, M, D = 37, 29, 5  # three tiles, the last of 5 rows
# Budgets in MiB under which affinities of float64 are made again, kept in part, or kept.
BUDGETS = pytest.mark.parametrize("budget", [1e-9, 88 * 8 * M / 2**20, 64.0])
CONVERGED = {"epsilon": 0.3, "teacher_epsilon": 0.2, "iterations": 300}
SHARP = {"epsilon": 0.005, "teacher_epsilon": 0.005}


def features(
    seed: int = 0, n: int = N, m: int = M, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    x, y, teacher_x, teacher_y = (
        torch.randn(rows, d, generator=generator, dtype=torch.float64).to(dtype)
        for rows, d in ((n, D), (m, D), (n, 7), (m, 7))
    )
    return x.requires_grad_(), y.requires_grad_(), teacher_x, teacher_y


def value_and_gradients(form: Callable[..., Tensor], *tensors: Tensor, **options: Any) -> Any:
    value = form(*tensors, **options)
    return value.detach(), *torch.autograd.grad(value, tensors[:2])


def plain(*tensors: Tensor, epsilon: float, teacher_epsilon: float, iterations: int = 50) -> Tensor:
    return plain_loss(*tensors, Regularisation(epsilon, teacher_epsilon, iterations), None)


def by_numpy(*tensors: Tensor, **options: Any) -> float:
    return oracles.klot_loss(*(t.detach().double().numpy() for t in tensors), **options)


@BUDGETS
@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(2, 60),
    m=st.integers(2, 60),
    epsilon=st.sampled_from([0.005, 0.05, 1.0]),
    iterations=st.integers(1, 30),
    seed=st.integers(0, 2**20),
)
def test_any_shape_is_that_of_numpy(budget, n, m, epsilon, iterations, seed):
    tensors = features(seed, n, m)
    options = {"epsilon": epsilon, "teacher_epsilon": 0.05, "iterations": iterations}
    with tile_budget(budget):
        value = klot_loss(*tensors, **options).detach()
    np.testing.assert_allclose(value, by_numpy(*tensors, **options), rtol=1e-11, atol=1e-11)


@BUDGETS
@pytest.mark.parametrize(
    ("dtype", "epsilon", "tolerance"),
    [
        (torch.float64, 0.05, 1e-13),
        (torch.float64, 0.005, 1e-13),
        (torch.float32, 0.05, 1e-6),
        (torch.float32, 0.005, 5e-6),  # the affinities over ε are 200, and their rounding 8e-6
    ],
)
def test_tiles_agree_with_the_plain_form(budget, dtype, epsilon, tolerance):
    options = {"epsilon": epsilon, "teacher_epsilon": epsilon}
    for seed in range(3):
        tensors = features(seed, dtype=dtype)
        with tile_budget(budget):
            value = klot_loss(*tensors, **options)
        torch.testing.assert_close(value, plain(*tensors, **options), rtol=tolerance, atol=0)


@BUDGETS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_gradients_are_those_of_the_converged_plain_form(budget, dtype, tolerance):
    tensors = features(dtype=dtype)
    with tile_budget(budget):
        ours = value_and_gradients(klot_loss, *tensors, **CONVERGED)
    for grad, exact in zip(ours, value_and_gradients(plain, *tensors, **CONVERGED), strict=True):
        assert (grad - exact).norm() <= tolerance * exact.norm()


def test_gradcheck():
    tensors = features(n=19, m=7)
    with tile_budget(1e-9):
        assert gradcheck(
            lambda *xy: klot_loss(*xy, *tensors[2:], **CONVERGED), tensors[:2], fast_mode=True
        )


def test_the_error_of_the_gradient_falls_with_the_iterations():
    tensors = features()
    errors = []
    for iterations in (5, 20, 80):
        options = {"epsilon": 0.1, "teacher_epsilon": 0.1, "iterations": iterations}
        ours = value_and_gradients(klot_loss, *tensors, **options)
        exact = value_and_gradients(plain, *tensors, **options)
        assert ours[0] == pytest.approx(exact[0].item(), rel=1e-12)
        pairs = zip(ours[1:], exact[1:], strict=True)
        errors.append(max(((a - b).norm() / b.norm()).item() for a, b in pairs))
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 10
    assert errors[2] < errors[1] / 1e5


@pytest.mark.parametrize("iterations", [1, 5, 30])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5])
def test_both_marginals_share_the_error_and_the_mass_is_at_most_one(epsilon, iterations):
    x, y, *_ = unit_features()
    P = log_plan(x @ y.mT / epsilon, iterations).exp()
    of_rows, of_columns = (P.sum(1) - 1 / N).abs().sum(), (P.sum(0) - 1 / M).abs().sum()
    assert of_rows <= 3 * of_columns + 1e-13
    assert of_columns <= 3 * of_rows + 1e-13
    assert P.sum() <= 1 + 1e-12


def unit_features() -> list[Tensor]:
    return [torch.from_numpy(oracles.unit_rows(t.detach().numpy())) for t in features()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterations", [1, 50])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5])
def test_a_student_that_is_its_teacher_pays_nothing(dtype, iterations, epsilon):
    *_, teacher_x, teacher_y = features(dtype=dtype)
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64))[0].to(dtype)
    x, y = ((t @ rotation).requires_grad_() for t in (teacher_x, teacher_y))
    options = {"epsilon": epsilon, "teacher_epsilon": epsilon, "iterations": iterations}
    value, *grads = value_and_gradients(klot_loss, x, y, teacher_x, teacher_y, **options)
    rounding = torch.finfo(dtype).eps / epsilon  # of the affinities
    assert -torch.finfo(dtype).eps <= value <= 10 * rounding**2 + torch.finfo(dtype).eps
    assert all(grad.abs().max() * epsilon <= 10 * rounding for grad in grads)


@pytest.mark.parametrize("iterations", [1, 2, 10])
@pytest.mark.parametrize("epsilon", [0.005, 0.05, 0.5])
def test_other_plans_cost_something_before_convergence_too(epsilon, iterations):
    for seed in range(5):
        value = klot_loss(*features(seed), epsilon=epsilon, iterations=iterations)
        assert value > 0.01


@BUDGETS
def test_order_of_the_rows_of_each_side_does_not_matter(budget):
    x, y, teacher_x, teacher_y = features()
    i, j = torch.randperm(N), torch.randperm(M)
    with tile_budget(budget):
        value, d_x, d_y = value_and_gradients(klot_loss, x, y, teacher_x, teacher_y)
        moved, moved_x, moved_y = value_and_gradients(
            klot_loss,
            x.detach()[i].requires_grad_(),
            y.detach()[j].requires_grad_(),
            teacher_x[i],
            teacher_y[j],
        )
        apart = klot_loss(x[i], y, teacher_x, teacher_y)
    torch.testing.assert_close(moved, value, rtol=1e-11, atol=0)
    torch.testing.assert_close(moved_x, d_x[i], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(moved_y, d_y[j], rtol=1e-9, atol=1e-12)
    assert (apart - value).abs() > 1e-3


@BUDGETS
def test_sharp_plans_stay_exact_in_float32(budget):
    """Columns opposite to every row: at v = 0 their plan is exp(-400), which float32 has not."""
    x, y, teacher_x, teacher_y = (t.detach().float() for t in features())
    x = x.abs()
    y = torch.cat([y[: M // 2].abs(), -y[M // 2 :].abs()])
    with tile_budget(budget):
        value = klot_loss(x, y, teacher_x, teacher_y, epsilon=0.005)
        plan_alone = klot_loss(x, y, x, y, **SHARP)
    expected = by_numpy(x, y, teacher_x, teacher_y, epsilon=0.005)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert plan_alone.abs() < 1e-7


@BUDGETS
def test_zero_equal_and_tiny_rows_are_finite(budget):
    *_, teacher_x, teacher_y = features(dtype=torch.float32)
    for rows in (torch.zeros(N, D), torch.ones(N, D), 1e-30 * torch.eye(N)[:, :D]):
        x, y = rows.clone().requires_grad_(), rows[:M].clone().requires_grad_()
        with tile_budget(budget):
            value, *grads = value_and_gradients(klot_loss, x, y, teacher_x, teacher_y)
            of_teacher = klot_loss(*features(dtype=torch.float32)[:2], x.detach(), y.detach())
        assert value.isfinite()
        assert of_teacher.isfinite()
        for z, grad in zip((x, y), grads, strict=True):
            assert grad.isfinite().all()
            assert (grad[(z == 0).all(1)] == 0).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("position", range(4))
def test_nan_in_nan_out(position, bad):
    tensors = [t.detach().clone() for t in features()]
    tensors[position][3, 2] = bad
    with tile_budget(1e-9):
        assert klot_loss(*tensors).isnan()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    tensors = features(dtype=dtype)
    up = tuple(t.detach().float().requires_grad_(t.requires_grad) for t in tensors)
    with tile_budget(1e-9):
        value, *grads = value_and_gradients(klot_loss, *tensors)
        same, *expected = value_and_gradients(klot_loss, *up)
    assert value.dtype == torch.float32
    assert torch.equal(value, same)
    for grad, of_float in zip(grads, expected, strict=True):
        assert torch.equal(grad, of_float.to(dtype))


def test_a_scaled_loss_keeps_gradients_that_float16_cannot_hold():
    """Under GradScaler's first scale, the gradient is rounded after the scale has been applied."""
    x, y, *teacher = (t.detach() for t in features())
    x, y = ((5e4 * t / t.norm(dim=1, keepdim=True)).half().requires_grad_() for t in (x, y))
    doubles = [t.detach().double().requires_grad_() for t in (x, y)]
    _, *expected = value_and_gradients(klot_loss, *doubles, *teacher)
    (65536 * klot_loss(x, y, *map(Tensor.float, teacher))).backward()
    for t, exact in zip((x, y), expected, strict=True):
        assert (exact.half() - exact).norm() > 4e-3 * exact.norm()
        assert (t.grad.double() / 65536 - exact).norm() < 1e-3 * exact.norm()


def test_autocast_changes_nothing():
    tensors = features(dtype=torch.float32)
    with tile_budget(1e-9):
        expected = value_and_gradients(klot_loss, *tensors)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            under = value_and_gradients(klot_loss, *tensors)
    assert all(map(torch.equal, under, expected))


def test_the_budget_changes_rounding_alone():
    tensors = features(n=200, m=150, dtype=torch.float32)
    values = []
    for mebibytes in (1e-9, 0.01, 0.1, 64.0):
        with tile_budget(mebibytes):
            values.append(klot_loss(*tensors).detach())
    torch.testing.assert_close(torch.stack(values), values[-1].expand(4), rtol=1e-6, atol=0)


@pytest.mark.parametrize("wanted", [(True, False), (False, True), (False, False)])
def test_any_part_of_the_gradient_can_be_left_out(wanted):
    *xy, teacher_x, teacher_y = features()
    whole = value_and_gradients(klot_loss, *xy, teacher_x, teacher_y)[1:]
    some = [t.detach().requires_grad_(want) for t, want in zip(xy, wanted, strict=True)]
    with tile_budget(1e-9):
        value = klot_loss(*some, teacher_x, teacher_y)
    assert value.requires_grad == any(wanted)
    if any(wanted):
        value.backward()
    for t, want, expected in zip(some, wanted, whole, strict=True):
        assert (t.grad is not None) == want
        if want:
            torch.testing.assert_close(t.grad, expected, rtol=1e-10, atol=1e-12)


def test_the_teacher_gets_no_gradient():
    x, y, *teacher = features()
    for t in teacher:
        t.requires_grad_()
    klot_loss(x, y, *teacher).backward()
    assert all(t.grad is None for t in teacher)
    assert not klot_loss(x.detach(), y.detach(), *teacher).requires_grad


def test_backward_twice_over_one_graph_but_no_second_derivative():
    x, y, *teacher = features()
    value = klot_loss(x, y, *teacher)
    first = torch.autograd.grad(value, (x, y), retain_graph=True)
    second = torch.autograd.grad(value, (x, y), create_graph=True)
    assert all(map(torch.equal, first, second))
    with pytest.raises(NotImplementedError, match=r"^klot_loss: .* inside torch\.func$"):
        second[0].sum().backward()


# The category depends on the version of PyTorch, whose own forward mode calls it.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_transforms_take_the_plain_form():
    x, y, *teacher = (t.detach() for t in features(n=12, m=9))

    def loss(x: Tensor, y: Tensor = y) -> Tensor:
        return klot_loss(x, y, *teacher, **CONVERGED)

    direction = torch.randn_like(x)
    found = torch.func.grad(loss)(x)
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(found, torch.autograd.grad(loss(leaf), leaf)[0])
    _, slope = torch.func.jvp(loss, (x,), (direction,))
    torch.testing.assert_close(slope, (found * direction).sum())
    with forward_ad.dual_level():
        dual = loss(forward_ad.make_dual(x, direction))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, slope)
        of_y = loss(x, forward_ad.make_dual(y, torch.ones_like(y)))
        slope = torch.func.grad(loss, 1)(x, y).sum()
        torch.testing.assert_close(forward_ad.unpack_dual(of_y).tangent, slope)
    assert torch.func.hessian(loss)(x).isfinite().all()
    both = torch.stack([x, direction])
    torch.testing.assert_close(torch.vmap(loss)(both), torch.stack([loss(a) for a in both]))


@BUDGETS
def test_meta_shapes(budget):
    tensors = [t.detach().to("meta").requires_grad_(t.requires_grad) for t in features()]
    with tile_budget(budget):
        value = klot_loss(*tensors)
        value.backward()
    assert value.shape == ()
    assert [t.grad.shape for t in tensors[:2]] == [(N, D), (M, D)]


@pytest.mark.parametrize("kept", [0, 16, 19])
def test_operators_keep_the_rules_of_torch_library(kept):
    x, y, *teacher = features(n=19, m=7)
    X, Y, ops = x.detach(), y.detach(), torch.ops.structure_reg
    Z = X[:kept] @ Y.mT
    for v in (None, torch.zeros(7, dtype=torch.float64)):
        torch.library.opcheck(ops.sinkhorn.default, (X, Y, Z, v, 19, 3, 16))
    rest = (x, y, teacher, torch.zeros(2, 2, 7).double(), torch.ones(2).double(), 19, 16)
    # Without the test that differentiates all outputs, of which the gradient refuses it.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    for needs in ([True, True], [False, True], [False, False]):
        torch.library.opcheck(ops.klot_sum.default, (*rest, needs), test_utils=tests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.ones(N, D + 1)}, "x and y with the same columns, got 6 and 5"),
        ({0: torch.ones(N - 1, D)}, "x and teacher_x with the same number of rows, got 36 and 37"),
        ({1: torch.ones(1, D), 3: torch.ones(1, 7)}, "y with n >= 2 rows"),
        ({2: torch.ones(N, 8)}, "teacher_x and teacher_y with the same columns, got 8 and 7"),
        ({3: torch.ones(M + 1, 7)}, "y and teacher_y with the same number of rows"),
        ({3: torch.ones(M)}, "teacher_y of shape"),
        ({1: torch.ones(M, D, device="meta"), 3: torch.ones(M, 7, device="meta")}, "x and y on"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    tensors = [change.get(i, t) for i, t in enumerate(features())]
    with pytest.raises(ValueError, match=f"^klot_loss: expected {message}"):
        klot_loss(*tensors)


# One batch over processes.

ROWS, COLUMNS = 24, 16  # in all, which 1, 2 and 4 processes share evenly


def step(group: Any, options: dict[str, Any], budget: float) -> tuple[Tensor, list[Tensor]]:
    """The loss of this process, and the gradients that DDP's mean over processes leaves."""
    inputs = [t.detach() for t in features(7, ROWS, COLUMNS)]
    weights = [features(seed, D, 3)[0].detach().requires_grad_() for seed in (8, 9)]
    if group is not None:
        inputs = [t[own_rows(len(t) // group.size(), group)] for t in inputs]
    x, y, *teacher = inputs
    with tile_budget(budget):
        loss = klot_loss(x @ weights[0], y @ weights[1], *teacher, group=group, **options)
    loss.backward()
    gradients = [weight.grad for weight in weights]
    if group is not None:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient, group=group)
            gradient /= group.size()
    return loss.detach(), gradients


@pytest.mark.parametrize("ranks", GROUPS)
@pytest.mark.parametrize("budget", [1e-9, 64.0])
@pytest.mark.parametrize(
    "options", [{"iterations": 9}, {"iterations": 1}, {**SHARP, "iterations": 9}]
)
def test_processes_equal_one(processes, ranks, options, budget):
    expected, gradients = step(None, options, budget)
    for found, of_process in processes.run(ranks, step, options, budget):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
        for gradient, exact in zip(of_process, gradients, strict=True):
            torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-10 * exact.abs().max())


def uneven(group: Any, n: tuple[int, ...], m: tuple[int, ...]) -> Any:
    return klot_loss(*features(0, n[group.rank()], m[group.rank()]), group=group).detach()


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [
        ((3, 2), (4, 4), "x of the same (rows, columns) on every process"),
        ((3, 3), (4, 0), "y of the same (rows, columns) on every process"),
        ((3, 3), (0, 0), "y with n >= 1 rows"),
    ],
)
def test_an_uneven_batch_is_refused_before_anything_hangs(processes, n, m, message):
    for answer in processes.run((0, 1), uneven, n, m):
        assert isinstance(answer, ValueError)
        assert f"klot_loss: expected {message}" in str(answer)


def test_one_row_a_process_is_a_batch(processes):
    first, second = processes.run((0, 1), uneven, (1, 1), (1, 1))
    assert torch.equal(first, second)


def compiled_and_not(group: Any) -> list[Any]:
    tensors = features(group.rank(), 6, 4)
    options = {"iterations": 3, "group": group}
    compiled = torch.compile(klot_loss, fullgraph=True, backend="aot_eager")
    return [value_and_gradients(form, *tensors, **options) for form in (klot_loss, compiled)]


@pytest.mark.slow  # a compiler is imported on each process
def test_one_graph_with_a_group(processes):
    for plain, compiled in processes.run((0, 1), compiled_and_not):
        assert all(map(torch.equal, plain, compiled))
