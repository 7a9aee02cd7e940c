"""Train two heads on one batch that spans several processes, under DDP and under FSDP2.

    torchrun --standalone --nproc-per-node 2 examples/distributed.py
    python examples/distributed.py

Both commands print the same losses: with `group=` the batch consists of the rows of all processes,
and the wrapper's gradients are those that one process with the whole batch would compute.
"""

# %% Paired features, as from two frozen encoders; every process creates the same ones.

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from structure_reg import clip_loss

PAIRS, BATCH, STEPS = 4096, 256, 30

torch.manual_seed(0)
concepts = torch.randn(PAIRS, 16)
images = torch.tanh(concepts @ torch.randn(16, 96)) + 0.3 * torch.randn(PAIRS, 96)
texts = torch.tanh(concepts @ torch.randn(16, 64)) + 0.3 * torch.randn(PAIRS, 64)


# %% The heads and the scale. FSDP2 shards the first axis, so the scale has shape (1,).


class Heads(nn.Module):
    """One linear head per side, and a learnable scale stored as its logarithm."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(96, 32)
        self.text = nn.Linear(64, 32)
        self.log_scale = nn.Parameter(torch.tensor([2.66]))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return both embeddings and the exponentiated scale."""
        return self.image(image), self.text(text), self.log_scale.exp()


def ddp(heads: nn.Module) -> nn.Module:
    return DistributedDataParallel(heads)


def fsdp(heads: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return fully_shard(heads, mesh=mesh)


# %% The loop. Each process takes its rows of the batch; the loss gathers the others.


def train(name: str, model: nn.Module, rank: int, processes: int) -> None:
    group = dist.group.WORLD if processes > 1 else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    shuffle = torch.Generator().manual_seed(1)  # the same on every process
    for step in range(STEPS):
        batch = torch.randperm(PAIRS, generator=shuffle)[:BATCH]
        mine = batch.chunk(processes)[rank]  # equal sizes; uneven batches raise an error
        loss = clip_loss(*model(images[mine], texts[mine]), group=group)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if rank == 0 and step % 10 == 9:
            print(f"{name:6} step {step + 1:3}: loss {loss.item():.4f}")


def main() -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1"))  # set by torchrun
    if processes == 1:
        torch.manual_seed(2)
        train("single", Heads(), 0, 1)
        return
    dist.init_process_group("gloo")  # "cpu:gloo,cuda:nccl" on GPUs
    for name, wrap in {"ddp": ddp, "fsdp2": fsdp}.items():
        torch.manual_seed(2)  # the same weights on every process
        train(name, wrap(Heads()), dist.get_rank(), processes)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
