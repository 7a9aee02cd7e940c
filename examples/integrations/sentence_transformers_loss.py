"""A loss for sentence-transformers that wraps another one and adds STRUCTURE to it.

    python examples/integrations/sentence_transformers_loss.py

The model is a frozen tiny BERT with a trainable `Dense` after its pooling. The trainer logs both
terms by name, and its model card lists the options and papers of both losses.
"""

# %%
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import transformers
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizerFast

from structure_reg import ReferenceTap, freeze, structure_loss


# %% The loss
class WithStructure(nn.Module):
    """`loss` on the embeddings, plus STRUCTURE between the output of module `layer` and them.

    `loss` must have `compute_loss_from_embeddings`. Losses named Cached run the model twice and do
    not have it.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        *,
        layer: str,
        weight: float = 5.0,
        temperature: float = 0.2,
    ) -> None:
        super().__init__()
        self.model = model  # the trainer replaces this by its wrapped model
        self.loss = loss  # the model card looks for a wrapped loss under this name
        self.tap = ReferenceTap(model, layer, pool=lambda out, _mask: out["sentence_embedding"])
        self.weight = weight
        self.temperature = temperature

    def forward(
        self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return both terms, which the trainer sums and logs."""
        references, embeddings = [], []
        for column in sentence_features:  # anchors, then positives
            embeddings.append(self.model(column)["sentence_embedding"])
            references.append(self.tap.rows)
        options = {"temperature": self.temperature, "group": dist.group.WORLD}
        structure = sum(
            structure_loss(reference, embedding, **options)
            for reference, embedding in zip(references, embeddings, strict=True)
        )
        return {
            "contrastive": self.loss.compute_loss_from_embeddings(embeddings, labels),
            "structure": self.weight * structure,
        }

    def get_config_dict(self) -> dict[str, Any]:
        """Return what the model card prints."""
        wrapped = type(self.loss).__name__
        return {"loss": wrapped, "weight": self.weight, "temperature": self.temperature}

    @property
    def citation(self) -> str:
        """The paper, for the model card."""
        return """
@inproceedings{groger2025structure,
    title = {With Limited Data for Multimodal Alignment, Let the {STRUCTURE} Guide You},
    author = {Fabian Gr{\\"o}ger and others},
    booktitle = {Advances in Neural Information Processing Systems},
    year = {2025},
    url = {https://arxiv.org/abs/2506.16895},
}
"""


# %% A model that needs no download: BERT, pooling, and the trained head
WORDS = ["a", "small", "large", "red", "green", "cat", "dog", "bird", "tree", "boat", "on", "the"]


def make_model(folder: Path) -> SentenceTransformer:
    torch.manual_seed(0)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    BertTokenizerFast(vocab=str(vocabulary)).save_pretrained(folder)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(WORDS) + 5, **small)).save_pretrained(folder)
    encoder, pooling = Transformer(str(folder)), Pooling(32)
    freeze(encoder)
    return SentenceTransformer(modules=[encoder, pooling, Dense(32, 16)], device="cpu")


def make_pairs(n: int) -> Dataset:
    generator = torch.Generator().manual_seed(1)

    def sentence() -> str:
        return " ".join(WORDS[i] for i in torch.randint(len(WORDS), (5,), generator=generator))

    anchors = [sentence() for _ in range(n)]
    return Dataset.from_dict({"anchor": anchors, "positive": [f"the {a}" for a in anchors]})


# %%
def train(folder: Path, steps: int = 4) -> SentenceTransformerTrainer:
    """Train for a few steps and return the trainer, with its log and model."""
    model = make_model(folder)
    loss = WithStructure(model, MultipleNegativesRankingLoss(model), layer="1")
    args = SentenceTransformerTrainingArguments(
        str(folder / "run"),
        max_steps=steps,
        per_device_train_batch_size=32,
        dataloader_drop_last=True,
        learning_rate=3e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = SentenceTransformerTrainer(model, args, train_dataset=make_pairs(128), loss=loss)
    trainer.train()
    return trainer


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        card = train(Path(folder)).model.model_card_data
    print(card.citations["WithStructure"])
