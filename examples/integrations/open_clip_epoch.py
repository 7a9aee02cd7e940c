"""Run open_clip's unmodified `train_one_epoch` with STRUCTURE in the loss.

    pip install -e ".[open-clip]" && pip install --no-deps open_clip_torch timm torchvision
    python examples/integrations/open_clip_epoch.py

A small CLIP with both towers locked trains its two projections and the scale. Its loss receives
only projected, normalised features. Two taps therefore capture the inputs of the projections, and a
hook adds them to the model's output, which open_clip passes to the loss by keyword.
"""

# %%
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from structure_reg import ClipLoss, ReferenceTap, StructureLoss, freeze

PAIRS, LENGTH, VOCABULARY = 128, 8, 64


# %% The loss. open_clip 3 sums every value of the returned dict, 4 those that end in _loss.
class WithStructure(nn.Module):
    """A contrastive loss of features and scale, ours or open_clip's own, plus STRUCTURE.

    The weight and the temperature are constants: with --accum-freq, a parameter of the loss would
    get its gradient once for every part of the batch.
    """

    def __init__(self, contrastive: nn.Module, structure: nn.Module, weight: float) -> None:
        super().__init__()
        self.contrastive = contrastive
        self.structure = structure
        self.weight = weight

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor,
        image_reference: Tensor,
        text_reference: Tensor,
        output_dict: bool = False,
    ) -> Tensor | dict[str, Tensor]:
        """Return the two terms, or their sum."""
        terms = {
            "contrastive_loss": self.contrastive(image_features, text_features, logit_scale),
            "structure_loss": self.weight
            * (
                self.structure(image_reference, image_features)
                + self.structure(text_reference, text_features)
            ),
        }
        return terms if output_dict else sum(terms.values())


# %% The model. Its projections are bare parameters, so freeze everything and unfreeze them.
def make_model() -> nn.Module:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        text_cfg={"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 32, "layers": 2},
        output_dict=True,
    )
    freeze(model)
    for parameter in (model.visual.proj, model.text_projection, model.logit_scale):
        parameter.requires_grad_(True)
    return model


def carry_references(model: nn.Module) -> None:
    """Add the inputs of the projections to the output; call before DDP or compile."""

    def shown(_images: Tensor, texts: Tensor) -> Tensor:
        return texts != 0  # not padding; the last such token is the end token, whose row is used

    image = ReferenceTap(model, "visual.ln_post", pool="cls")
    text = ReferenceTap(model, "ln_final", pool="last", mask=shown)

    def add(_model: nn.Module, _inputs: tuple, output: dict) -> dict[str, Tensor]:
        return {**output, "image_reference": image.rows, "text_reference": text.rows}

    model.register_forward_hook(add)


# %% One epoch, as open_clip_train.main calls it
def train(loss: nn.Module, batch: int, accumulate: int = 1, epochs: int = 1) -> nn.Module:
    from open_clip_train.params import parse_args
    from open_clip_train.train import train_one_epoch

    model = make_model()
    carry_references(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    images = torch.randn(PAIRS, 3, 16, 16)
    texts = torch.randint(1, VOCABULARY - 1, (PAIRS, LENGTH))
    for row, end in enumerate(torch.randint(2, LENGTH, (PAIRS,))):
        texts[row, end], texts[row, end + 1 :] = VOCABULARY - 1, 0
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, texts), batch)
    loader.num_batches, loader.num_samples = len(loader), PAIRS
    data = {"train": SimpleNamespace(dataloader=loader, set_epoch=lambda _epoch: None)}
    flags = f"--batch-size {batch} --accum-freq {accumulate} --precision fp32 --log-every-n-steps 1"
    args = parse_args([*flags.split(), "--skip-scheduler"])
    # open_clip_train.main sets these itself.
    vars(args).update(device="cpu", rank=0, world_size=1, distill=False, wandb=False)
    for epoch in range(epochs):
        train_one_epoch(model, data, loss, epoch, optimizer, None, None, None, args)
    return model


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(WithStructure(ClipLoss(), StructureLoss(temperature=0.2), weight=5.0), 64, epochs=3)
