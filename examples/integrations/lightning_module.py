"""A LightningModule whose `training_step` adds STRUCTURE, on one process or several.

    python examples/integrations/lightning_module.py
    python examples/integrations/lightning_module.py --devices 2

Both commands print the same losses. The losses gather the rows of all processes with gradient, so
the step needs no `self.all_gather`.
"""

# %%
import argparse
import logging

import lightning
import torch
import torch.distributed as dist
from clip_art import pairs
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from structure_reg import clip_loss, structure_loss


# %% The module
class Align(lightning.LightningModule):
    """Two heads on precomputed features, and a learnable scale."""

    def __init__(self, weight: float = 5.0, temperature: float = 0.2) -> None:
        super().__init__()
        self.weight = weight
        self.temperature = temperature
        self.head_x, self.head_y = nn.Linear(1280, 64), nn.Linear(384, 64)
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of the batch that spans the processes."""
        x, y, ids = batch
        z_x, z_y = self.head_x(x), self.head_y(y)
        # Evaluated here because __init__ runs before the group exists; None means one process.
        group = dist.group.WORLD
        contrastive = clip_loss(z_x, z_y, self.log_scale.exp(), ids=ids, group=group)
        options = {"temperature": self.temperature, "group": group}
        structure = structure_loss(x, z_x, **options) + structure_loss(y, z_y, **options)
        structure = self.weight * structure
        # Every process holds the mean over all processes, so no synchronisation is needed.
        self.log_dict({"contrastive": contrastive, "structure": structure})
        return contrastive + structure

    def train_dataloader(self) -> DataLoader:
        """Return the loader: 128 pairs per step over all processes, without the last few."""
        # On several processes Lightning inserts a sampler that shuffles even if the loader does
        # not. This sampler draws the same batches on one process.
        data = TensorDataset(*pairs("train"))
        processes = self.trainer.world_size
        sampler = DistributedSampler(data, processes, self.trainer.global_rank)
        return DataLoader(data, 128 // processes, sampler=sampler, drop_last=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser of the heads and the scale."""
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


class Print(lightning.Callback):
    """Print the logged terms of every step on the first process."""

    def on_train_batch_end(self, trainer: lightning.Trainer, *_args: object) -> None:
        """Print one line per step."""
        terms = {name: value.item() for name, value in trainer.callback_metrics.items()}
        line = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
        lightning.pytorch.utilities.rank_zero.rank_zero_only(print)(line)


# %%
def train(devices: int) -> nn.Module:
    """Train for an epoch."""
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Print()],
    )
    module = Align()
    trainer.fit(module)
    return module


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=1)
    train(parser.parse_args().devices)
