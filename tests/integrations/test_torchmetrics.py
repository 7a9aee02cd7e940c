"""The metrics are the library's functions on all pairs, in any batches, each row once."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("torchmetrics", reason="pip install '.[integrations]'")

from torchmetrics_ddp import MeanRecall, PairCKA, evaluate

from structure_reg import cka, retrieval


@pytest.mark.parametrize("batch", [7, 20, 64])
def test_any_batches_and_copies_give_the_value_of_all_rows(batch: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 8, generator=g)
    y = x + torch.randn(64, 8, generator=g)
    ids = torch.arange(64) // 2
    metrics = {PairCKA(): cka(x, y), MeanRecall(ids): retrieval(x, y, ids=ids).mean_recall}
    shuffled = torch.cat([torch.randperm(64, generator=g), torch.tensor([3, 3, 60])])
    for metric, expected in metrics.items():
        for rows in shuffled.split(batch):
            metric.update(x[rows], y[rows], rows)
        assert torch.equal(metric.compute(), expected)
        metric.reset()
        metric.update(x, y, torch.arange(64))
        assert torch.equal(metric.compute(), expected)


def test_the_script(printed) -> None:
    lines = printed("torchmetrics_ddp").splitlines()
    values = evaluate()
    assert [line.split()[-1] for line in lines] == [f"{value:.6f}" for value in values.values()]
