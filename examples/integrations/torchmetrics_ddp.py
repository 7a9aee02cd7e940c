"""CKA and retrieval as torchmetrics `Metric`s that are correct on several processes.

    python examples/integrations/torchmetrics_ddp.py
    torchrun --standalone --nproc-per-node 2 examples/integrations/torchmetrics_ddp.py

Neither value is a mean over batches: within a batch of 32, partners are searched among 32 rows
only. The state is therefore the features, which are gathered when the value is computed. A
distributed sampler repeats rows until every process has the same number of them; the row number
identifies these copies, and each row is counted once.
"""

# %%
import os

import torch
import torch.distributed as dist
from clip_art import pairs
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from structure_reg import cka, fit_ridge, retrieval


# %% The state that both metrics share
class PairMetric(Metric):
    """Paired features of all processes, with each row of the data set once."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("x", "y", "row"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, x: Tensor, y: Tensor, row: Tensor) -> None:
        """Add a batch; `row` is the number of each pair in the data set."""
        self.x.append(x)
        self.y.append(y)
        self.row.append(row)

    def pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the pairs in data set order, without copies."""
        x, y, row = (dim_zero_cat(state) for state in (self.x, self.y, self.row))
        row, order = row.sort(stable=True)
        first = torch.ones_like(row, dtype=torch.bool)
        first[1:] = row[1:] != row[:-1]
        return x[order[first]], y[order[first]], row[first]


class PairCKA(PairMetric):
    """Debiased linear CKA of the pairs."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return a value of at most 1."""
        x, y, _ = self.pairs()
        return cka(x, y)


class MeanRecall(PairMetric):
    """Mean of R@1, R@5 and R@10 both ways; rows with equal id are positives."""

    higher_is_better = True

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.register_buffer("ids", ids, persistent=False)

    def compute(self) -> Tensor:
        """Return a value in [0, 1]."""
        x, y, row = self.pairs()
        return retrieval(x, y, ids=self.ids[row]).mean_recall


# %% 447 test pairs with two heads. 447 is odd, so on two processes one pair occurs twice.
@torch.no_grad()
def evaluate(batch: int = 32) -> dict[str, Tensor]:
    """Return each metric, and the CKA that results if the sampler's copies are counted."""
    head_x, head_y = fit_ridge(*pairs("train")[:2])
    x, y, ids = pairs("test")
    processes = dist.get_world_size() if dist.is_initialized() else 1
    rank = dist.get_rank() if dist.is_initialized() else 0
    data = TensorDataset(x, y, torch.arange(len(x)))
    sampler = DistributedSampler(data, processes, rank, shuffle=False)
    metrics = {"CKA": PairCKA(), "mean recall": MeanRecall(ids)}
    for of_x, of_y, row in DataLoader(data, batch, sampler=sampler):
        for metric in metrics.values():
            metric.update(head_x(of_x), head_y(of_y), row)
    values = {name: metric.compute() for name, metric in metrics.items()}
    with metrics["CKA"].sync_context():
        everything = dim_zero_cat(metrics["CKA"].x), dim_zero_cat(metrics["CKA"].y)
    return values | {"CKA, copies counted": cka(*everything)}


if __name__ == "__main__":
    if "WORLD_SIZE" in os.environ:  # torchrun
        dist.init_process_group("gloo")
    values = evaluate()
    if not dist.is_initialized() or dist.get_rank() == 0:
        for name, value in values.items():
            print(f"{name:22}{value:.6f}")
    if dist.is_initialized():
        dist.destroy_process_group()
