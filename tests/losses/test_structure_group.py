"""One batch over processes: rows of one, neighbours of all, the gradient of a single process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from processes import GROUPS

from structure_reg import FrozenStructure, StructureLoss, structure_loss
from structure_reg._distributed import own_rows

N, D0, D = 24, 7, 5  # rows in all, which 1, 2 and 4 processes share evenly


def problem() -> tuple[torch.Tensor, torch.nn.Linear, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    frozen = torch.randn(N, D0, generator=generator, dtype=torch.float64) + 0.3
    head = torch.nn.Linear(D0, D, dtype=torch.float64)
    for parameter in head.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return frozen, head, torch.randn(6, D0, generator=generator, dtype=torch.float64)


def value_and_gradient(
    group: Any, options: dict[str, Any], anchored: bool, prepared: bool
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The loss of this process, and the gradients that DDP's mean over processes leaves."""
    frozen, head, bank = problem()
    own = slice(0, N) if group is None else own_rows(N // group.size(), group)
    anchors = (bank, head(bank)) if anchored else None
    if prepared:
        walk = {name: options[name] for name in ("temperature", "levels", "centering")}
        loss = StructureLoss(group=group, **options)(
            FrozenStructure(frozen, **walk), head(frozen[own])
        )
    else:
        loss = structure_loss(
            frozen[own], head(frozen[own]), anchors=anchors, group=group, **options
        )
    loss.backward()
    gradients = [parameter.grad for parameter in head.parameters()]
    if group is not None:
        for gradient in gradients:
            torch.distributed.all_reduce(gradient, group=group)
            gradient /= group.size()
    return loss.detach(), gradients


@pytest.mark.parametrize("ranks", GROUPS)
@pytest.mark.parametrize(
    ("levels", "centering", "anchored", "prepared"),
    [
        (1, "after", False, False),
        (3, "before", False, False),
        (1, "before", True, False),
        (3, "after", True, False),
        (1, "after", False, True),
        (3, "after", False, True),
    ],
)
def test_processes_equal_one(processes, ranks, levels, centering, anchored, prepared):
    for reduction, temperature in (("mean", 0.2), ("sum", 0.002)):
        options = {
            "temperature": temperature,
            "levels": levels,
            "centering": centering,
            "reduction": reduction,
        }
        expected, gradients = value_and_gradient(None, options, anchored, prepared)
        largest = max(gradient.abs().max().item() for gradient in gradients)
        for found, of_process in processes.run(
            ranks, value_and_gradient, options, anchored, prepared
        ):
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
            for gradient, exact in zip(of_process, gradients, strict=True):
                torch.testing.assert_close(gradient, exact, rtol=0, atol=1e-10 * largest)


def own_part(group: Any) -> torch.Tensor:
    frozen, head, _ = problem()
    own = own_rows(N // group.size(), group)
    with torch.no_grad():
        return structure_loss(frozen[own], head(frozen[own]), reduction="none", group=group)


def test_rows_stay_where_they_are(processes):
    frozen, head, _ = problem()
    whole = structure_loss(frozen, head(frozen), reduction="none").detach()
    torch.testing.assert_close(torch.cat(processes.run((0, 1), own_part)), whole)


def uneven(group: Any) -> torch.Tensor:
    frozen, head, _ = problem()
    own = slice(0, 5 + group.rank())
    return structure_loss(frozen[own], head(frozen[own]), group=group)


def test_uneven_batches_are_refused_on_every_process(processes):
    for answer in processes.run((0, 1), uneven):
        assert isinstance(answer, ValueError)
        assert "structure_loss: expected frozen of the same (rows, columns)" in str(answer)


def test_a_group_is_a_group():
    frozen, head, _ = problem()
    with pytest.raises(TypeError, match="structure_loss: expected group to be"):
        structure_loss(frozen, head(frozen), group="world")
    with pytest.raises(TypeError, match="StructureLoss: expected group to be"):
        StructureLoss(group=2)
