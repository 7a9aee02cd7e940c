"""Hugging Face's dual encoder in its `Trainer`, with STRUCTURE in `compute_loss`.

    python examples/integrations/hf_trainer.py
    torchrun --standalone --nproc-per-node 2 examples/integrations/hf_trainer.py

The two projections of a frozen tiny ViT and a frozen tiny BERT are trained. The frozen side of the
loss needs no second forward pass, because the model's output contains the encoders' hidden states
as well as the embeddings.
"""

# %%
import os
import tempfile

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import (
    BertConfig,
    Trainer,
    TrainingArguments,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from structure_reg import clip_loss, freeze, structure_loss

PAIRS, LENGTH = 128, 8


# %% The Trainer
class StructureTrainer(Trainer):
    """Trainer with CLIP and STRUCTURE losses on the batch of all processes."""

    # The loss is a mean over the batch and must be divided by the accumulation steps. Without this
    # flag, a Trainer whose batches have labels skips the division, and gradients add up.
    loss_is_scaled_for_ga = False
    weight, temperature = 5.0, 0.2

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,  # counts labels; there are none
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the pairs in `inputs`."""
        group = dist.group.WORLD  # None on one process
        out = model(**inputs)
        # Use hidden states, because some poolers are layers without pretrained weights.
        image = out.vision_model_output.last_hidden_state[:, 0]
        mask = inputs["attention_mask"][..., None]
        tokens = out.text_model_output.last_hidden_state
        text = torch.where(mask == 1, tokens, 0).sum(1) / mask.sum(1)
        options = {"temperature": self.temperature, "group": group}
        scale = self.accelerator.unwrap_model(model).logit_scale.exp()
        contrastive = clip_loss(out.image_embeds, out.text_embeds, scale, group=group)
        structure = structure_loss(image, out.image_embeds, **options)
        structure = structure + structure_loss(text, out.text_embeds, **options)
        loss = contrastive + self.weight * structure
        return (loss, out) if return_outputs else loss


# %% The model and its pairs
def make_model() -> nn.Module:
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig(
            vision_config=ViTConfig(image_size=16, patch_size=8, **small).to_dict(),
            text_config=BertConfig(vocab_size=64, **small).to_dict(),
            projection_dim=16,
        )
    )
    freeze(model.vision_model)  # the Trainer's model.train() would re-enable BERT's dropout
    freeze(model.text_model)
    return model


def make_pairs() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(2, LENGTH + 1, (PAIRS,), generator=generator)
    return [
        {
            "pixel_values": torch.randn(3, 16, 16, generator=generator),
            "input_ids": torch.randint(1, 64, (LENGTH,), generator=generator),
            "attention_mask": (torch.arange(LENGTH) < length).long(),
        }
        for length in lengths
    ]


# %%
def train(batch: int, accumulate: int = 1, trainer: type[Trainer] = StructureTrainer) -> nn.Module:
    """Train for an epoch; a step takes `batch` pairs per process, `accumulate` times."""
    model = make_model()
    with tempfile.TemporaryDirectory() as folder:
        trainer(
            model,
            TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=accumulate,
                learning_rate=1e-2,
                train_sampling_strategy="sequential",
                dataloader_drop_last=True,  # uneven batches raise an error
                remove_unused_columns=False,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=make_pairs(),
        ).train()
    return model


if __name__ == "__main__":
    train(batch=32 // int(os.environ.get("WORLD_SIZE", "1")))  # 32 pairs in all; torchrun sets it
