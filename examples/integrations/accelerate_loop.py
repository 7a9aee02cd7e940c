"""A plain loop under Accelerate, with one batch across all processes.

    python examples/integrations/accelerate_loop.py
    torchrun --standalone --nproc-per-node 2 examples/integrations/accelerate_loop.py

Both commands print the same losses. `backward` is unchanged, and the losses gather with gradient,
which `accelerator.gather` does not.
"""

# %%
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from clip_art import pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from structure_reg import clip_loss, retrieval, structure_loss


# %% Heads and scale in one module, so that one wrapper averages all gradients
class Heads(nn.Module):
    """One linear head per side, and a learnable scale."""

    def __init__(self) -> None:
        super().__init__()
        self.head_x, self.head_y = nn.Linear(1280, 64), nn.Linear(384, 64)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both embeddings and the exponentiated scale."""
        return self.head_x(x), self.head_y(y), self.log_scale.exp()


# %% The loop
def train(epochs: int = 1, weight: float = 5.0) -> nn.Module:
    """Train with steps of 128 pairs over all processes."""
    set_seed(0)
    # Batches of 128 are split among the processes, with the same order for any number of them.
    loading = DataLoaderConfiguration(split_batches=True, use_seedable_sampler=True)
    accelerator = Accelerator(cpu=True, dataloader_config=loading)
    heads = Heads()
    loader = DataLoader(TensorDataset(*pairs("train")), 128, shuffle=True, drop_last=True)
    optimizer = torch.optim.AdamW(heads.parameters(), lr=2e-3)
    heads, optimizer, loader = accelerator.prepare(heads, optimizer, loader)
    options = {"temperature": 0.2, "group": dist.group.WORLD}  # None on one process
    for _ in range(epochs):
        for step, (x, y, ids) in enumerate(loader):
            z_x, z_y, scale = heads(x, y)
            loss = clip_loss(z_x, z_y, scale, ids=ids, group=dist.group.WORLD)
            loss = loss + weight * (
                structure_loss(x, z_x, **options) + structure_loss(y, z_y, **options)
            )
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            accelerator.print(f"step {step}: loss {loss.item():.4f}")
    return accelerator.unwrap_model(heads)


# %% Evaluation needs no gradient, so use `gather_for_metrics`, which drops the sampler's padding
def mean_recall(heads: nn.Module, accelerator: Accelerator) -> Tensor:
    """Return the mean recall on the test pairs, the same on every process."""
    loader = accelerator.prepare(DataLoader(TensorDataset(*pairs("test")), 100))
    batches = []
    with torch.no_grad():
        for x, y, ids in loader:
            z_x, z_y, _ = heads(x, y)
            batches.append(accelerator.gather_for_metrics((z_x, z_y, ids)))
    z_x, z_y, ids = (torch.cat(of_all) for of_all in zip(*batches, strict=True))
    return retrieval(z_x, z_y, ids=ids).mean_recall


if __name__ == "__main__":
    heads = train(epochs=2)
    accelerator = Accelerator(cpu=True)
    recall = mean_recall(heads, accelerator)
    accelerator.print(f"mean recall of the test pairs: {recall:.4f}")
    accelerator.end_training()
