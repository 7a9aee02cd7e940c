"""One global batch: what crosses processes, and that W processes equal one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from processes import GROUPS
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize
from torch.nn.parallel import DistributedDataParallel

from structure_reg import clip_loss, siglip_loss
from structure_reg._distributed import (
    check_even,
    exchange,
    gather_ids,
    gather_rows,
    mean_over_processes,
    own_rows,
)

N, D = 12, 5  # rows in all, which 1, 2 and 4 processes share evenly


def whole(seed: int, *shape: int) -> Tensor:
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


class Heads(nn.Module):
    """Two linear heads and the two learnable scalars, float64."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Linear(D, 4, bias=False, dtype=torch.float64)
        self.y = nn.Linear(D, 4, dtype=torch.float64)
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor([-3.0], dtype=torch.float64))

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return self.x(x), self.y(y), self.log_scale.exp(), self.bias


def heads() -> Heads:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Heads()


def contrastive(name: str, features: tuple[Tensor, ...], group: Any, **options: Any) -> Tensor:
    x, y, scale, bias = features
    if name == "clip":
        return clip_loss(x, y, scale, group=group, **options) + 0 * bias.sum()
    return siglip_loss(x, y, scale, bias, group=group, **options)


def step(group: Any, name: str, options: dict[str, Any]) -> tuple[Tensor, list[Tensor | None]]:
    """One step of training on the rows of this process: the loss, and the gradients after it."""
    mine = slice(0, N) if group is None else own_rows(N // group.size(), group)
    model: nn.Module = heads()
    if group is not None:
        model = DistributedDataParallel(model, process_group=group)
    ids = options.get("ids")
    options = options | {"ids": ids if ids is None else ids[mine]}
    loss = contrastive(name, model(whole(1, N, D)[mine], whole(2, N, D)[mine]), group, **options)
    if options.get("reduction") == "none":
        # Under DDP the mean over processes of the local means is the global mean.
        (loss * whole(3, N)[mine]).mean().backward()
    else:
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


IDS = torch.tensor([4, 7, 7, 1, 0, 4, 7, 9, 2, 1, 3, 5])  # partners on other processes


@pytest.mark.parametrize("ranks", GROUPS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("clip", {}),
        ("clip", {"reduction": "sum"}),
        ("clip", {"ids": IDS, "label_smoothing": 0.1}),
        ("clip", {"ids": IDS, "reduction": "none"}),
        ("siglip", {}),
        ("siglip", {"ids": IDS, "reduction": "sum"}),
        ("siglip", {"reduction": "none"}),
    ],
)
def test_every_gradient_after_ddp_is_that_of_one_process(processes, ranks, name, options):
    loss, gradients = step(None, name, options)
    per_process = loss.chunk(len(ranks)) if loss.ndim else [loss] * len(ranks)
    answers = processes.run(ranks, step, name, options)
    for (value, grads), expected in zip(answers, per_process, strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10)
        for grad, of_one in zip(grads, gradients, strict=True):
            torch.testing.assert_close(grad, of_one, rtol=0, atol=1e-10)


def uneven_loss(group: Any, name: str, rows: tuple[int, ...]) -> Any:
    n = rows[group.rank()]
    return contrastive(name, heads()(whole(1, n, D), whole(2, n, D)), group).detach()


@pytest.mark.parametrize("name", ["clip", "siglip"])
@pytest.mark.parametrize("rows", [(3, 3, 3, 2), (3, 3, 3, 1), (3, 0, 3, 3)])
def test_an_uneven_last_batch_is_refused_before_anything_hangs(processes, name, rows):
    for answer in processes.run((0, 1, 2, 3), uneven_loss, name, rows):
        assert isinstance(answer, ValueError)
        assert f"{name}_loss: expected x of the same (rows, columns)" in str(answer)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_row_a_process_is_a_batch(processes, name):
    values = processes.run((0, 1, 2, 3), uneven_loss, name, (1, 1, 1, 1))
    assert all(torch.equal(value, values[0]) for value in values)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_row_in_all_is_none(processes, name):
    (answer,) = processes.run((0,), uneven_loss, name, (1,))
    assert "at least 2 rows over all processes, got 1" in str(answer)


@pytest.mark.parametrize("loss", [clip_loss, siglip_loss])
@pytest.mark.parametrize("group", [0, "world", object()])
def test_what_is_no_group_is_refused(loss, group):
    with pytest.raises(TypeError, match=r"expected group to be a torch\.distributed\.ProcessGroup"):
        loss(torch.eye(2), torch.eye(2), group=group)


def gather_without_gradient(x: Tensor, group: Any) -> Tensor:
    """What open_clip does by default: of what is gathered, only the own rows have a gradient."""
    parts = [torch.empty_like(x) for _ in range(group.size())]
    dist.all_gather(parts, x.detach(), group=group)
    parts[group.rank()] = x
    return torch.cat(parts)


def open_clip_step(group: Any, ours: bool) -> list[Tensor | None]:
    mine = own_rows(N // group.size(), group)
    model = DistributedDataParallel(heads(), process_group=group)
    x, y, scale, bias = model(whole(1, N, D)[mine], whole(2, N, D)[mine])
    if ours:
        for embedding in (x, y):
            embedding.register_hook(lambda grad: grad / group.size())
        loss = clip_loss(x, y, scale, group=group)
    else:
        x, y = (gather_without_gradient(normalize(t), group) for t in (x, y))
        own = torch.arange(N)
        loss = (cross_entropy(scale * x @ y.T, own) + cross_entropy(scale * y @ x.T, own)) / 2
    (loss + 0 * bias.sum()).backward()
    return [parameter.grad for parameter in model.parameters()]


def test_the_recipe_for_open_clips_default_gather(processes):
    ranks = (0, 1, 2, 3)
    ours, theirs = (processes.run(ranks, open_clip_step, which)[0] for which in (True, False))
    _, of_one_process = step(None, "clip", {})
    for grad, expected, whole_gradient in zip(ours, theirs, of_one_process, strict=True):
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12)
        if grad.ndim == 2:  # a head; the scale has all of its gradient
            torch.testing.assert_close(4 * grad, whole_gradient, rtol=0, atol=1e-12)


def compiled_and_not(group: Any, name: str) -> list[list[Tensor]]:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        return contrastive(name, (x, y, 3 * one, -one), group)

    one = torch.ones((), dtype=torch.float64)
    x, y = (whole(seed + group.rank(), 3, D).requires_grad_() for seed in (10, 20))
    answers = []
    for form in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        value = form(x, y)
        answers.append([value.detach(), *torch.autograd.grad(value, (x, y))])
    return answers


@pytest.mark.slow  # a compiler is imported on each process
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_one_graph_with_a_group(processes, name):
    for plain, compiled in processes.run((0, 1), compiled_and_not, name):
        assert all(map(torch.equal, plain, compiled))
