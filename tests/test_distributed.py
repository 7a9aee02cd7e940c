"""One global batch: what crosses processes, and that W processes equal one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from processes import GROUPS, Processes

from structure_reg._distributed import (
    check_even,
    exchange,
    gather_ids,
    gather_rows,
    mean_over_processes,
    own_rows,
)

N, D = 12, 5  # rows in all, which 1, 2 and 4 processes share evenly


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    running = Processes()
    yield running
    running.close()


def whole(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def gathered(group: Any) -> tuple[Any, ...]:
    mine = own_rows(N // group.size(), group)
    x = whole(0, N, D)[mine].requires_grad_()
    everywhere = gather_rows(x, group)
    (everywhere * whole(1 + group.rank(), N, D)).sum().backward()
    return mine, everywhere.detach(), x.grad, gather_ids(torch.arange(N)[mine], group)


@pytest.mark.parametrize("ranks", GROUPS)
def test_gathered_rows_are_in_order_and_gradients_summed(processes, ranks):
    gradient = sum(whole(1 + rank, N, D) for rank in range(len(ranks)))
    for mine, everywhere, grad, ids in processes.run(ranks, gathered):
        assert torch.equal(everywhere, whole(0, N, D))
        torch.testing.assert_close(grad, gradient[mine], rtol=0, atol=1e-14)
        assert torch.equal(ids, torch.arange(N))


def half_gathered(group: Any) -> tuple[Any, ...]:
    x = torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True)
    everywhere = gather_rows(x, group)
    # 1 + 3/512 is not a bfloat16: 4 of them rounded one by one would not give 4 + 12/512.
    (everywhere * (1 + 3 / 512)).sum().backward()
    return everywhere.dtype, x.grad


def test_half_precision_is_summed_in_float32(processes):
    for dtype, grad in processes.run((0, 1, 2, 3), half_gathered):
        assert dtype == torch.float32
        assert grad.dtype == torch.bfloat16
        expected = torch.tensor(4 + 12 / 512).to(torch.bfloat16)
        assert torch.equal(grad, expected.expand(2, 3))


def exchanged(group: Any) -> tuple[Any, ...]:
    world, rank = group.size(), group.rank()
    x = whole(rank, world, 3).requires_grad_()
    received = exchange(x, group)
    (received * whole(9 + rank, world, 3)).sum().backward()
    return received.detach(), x.grad


@pytest.mark.parametrize("ranks", GROUPS)
def test_exchange_transposes_processes_and_its_gradient_too(processes, ranks):
    world = len(ranks)
    for rank, (received, grad) in enumerate(processes.run(ranks, exchanged)):
        expected = torch.stack([whole(other, world, 3)[rank] for other in range(world)])
        assert torch.equal(received, expected)
        expected = torch.stack([whole(9 + other, world, 3)[rank] for other in range(world)])
        assert torch.equal(grad, expected)


def averaged(group: Any) -> tuple[Any, ...]:
    value = torch.tensor(float(group.rank()), dtype=torch.float64, requires_grad=True)
    mean = mean_over_processes(value, group)
    (3 * mean).backward()
    return mean.detach(), value.grad, value.detach()


@pytest.mark.parametrize("ranks", GROUPS)
def test_the_mean_is_everywhere_and_its_gradient_is_the_own(processes, ranks):
    for rank, (mean, grad, value) in enumerate(processes.run(ranks, averaged)):
        assert mean == (len(ranks) - 1) / 2
        assert grad == 3
        assert value == rank


def uneven(group: Any, rows: tuple[int, ...]) -> Any:
    check_even("clip_loss", group, x=torch.ones(rows[group.rank()], D), ids=None)
    return "even"


@pytest.mark.parametrize("ranks", [(0, 1), (0, 1, 2, 3)])
@pytest.mark.parametrize("last", [0, 1, 5])
def test_uneven_batches_are_refused_on_every_process(processes, ranks, last):
    rows = (*[6] * (len(ranks) - 1), last)
    for answer in processes.run(ranks, uneven, rows):
        assert isinstance(answer, ValueError)
        assert str(answer).startswith(
            "clip_loss: expected x of the same (rows, columns) on every process, "
            f"got ({last}, 5) and (6, 5)"
        )


def test_even_batches_pass(processes):
    assert processes.run((0, 1), uneven, (6, 6)) == ["even"] * 2


def test_no_group_is_this_process_and_costs_nothing():
    x = whole(0, 3, 2)
    assert gather_rows(x, None) is x
    assert exchange(x, None) is x
    assert mean_over_processes(x, None) is x
    assert own_rows(3, None) == slice(0, 3)
    check_even("clip_loss", None, x=x)
