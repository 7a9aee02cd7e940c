"""What an anchor bank does to the STRUCTURE term of a small batch, on real features.

    python benchmarks/anchor_bank.py --plot docs/anchor_bank.png

Value and gradient of the term against the size of the batch, relative to the whole set as one
batch: of the batch alone; with a bank of other rows as neighbours of the batch's (`anchors=`); with
the gradient stopped at the bank; and with the bank's rows averaged too, which is the loss of batch
and bank concatenated. Gradients are by the weights of a linear head, a ridge regression from image
to text features. A batch's gradient is averaged over batches before its length and its direction
are taken: what is left is what training drifts along.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from structure_reg import structure_loss

FEATURES = Path(__file__).parents[1] / "examples/data/openclipart.safetensors"
Form = Callable[[Tensor, Tensor, Tensor], Tensor]


def alone(batch: Tensor, bank: Tensor, head: Tensor) -> Tensor:  # noqa: ARG001
    return structure_loss(batch, batch @ head)


def anchored(batch: Tensor, bank: Tensor, head: Tensor) -> Tensor:
    return structure_loss(batch, batch @ head, anchors=(bank, bank @ head))


def detached(batch: Tensor, bank: Tensor, head: Tensor) -> Tensor:
    return structure_loss(batch, batch @ head, anchors=(bank, (bank @ head).detach()))


def concatenated(batch: Tensor, bank: Tensor, head: Tensor) -> Tensor:
    both = torch.cat([batch, bank])
    return structure_loss(both, both @ head)


FORMS: dict[str, Form] = {
    "batch alone": alone,
    "bank as neighbours": anchored,
    "bank, gradient stopped": detached,
    "bank as rows too": concatenated,
}


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / x.std()


def ridge(x: Tensor, y: Tensor) -> Tensor:
    penalty = 0.01 * len(x) * torch.eye(x.shape[1])
    return torch.linalg.solve(x.mT @ x + penalty, x.mT @ y)


def drift(
    form: Form, pool: Tensor, bank: Tensor, head: Tensor, rows: int, g: torch.Generator
) -> tuple[float, float, Tensor]:
    """Mean value, its spread over batches, and mean gradient."""
    values, gradient = [], torch.zeros_like(head)
    batches = min(60, max(8, 4096 // rows))
    for _ in range(batches):
        batch = pool[torch.randperm(len(pool), generator=g)[:rows]]
        value = form(batch, bank, head)
        gradient += torch.autograd.grad(value, head)[0] / batches
        values.append(value.detach())
    spread, mean = torch.std_mean(torch.stack(values))
    return mean.item(), spread.item(), gradient


def plot(curves: dict[str, list[tuple[int, float, float]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharex=True, layout="constrained")
    for name, curve in curves.items():
        rows, values, gradients = zip(*curve, strict=True)
        axes[0].plot(rows, values, "o-", label=name)
        axes[1].plot(rows, gradients, "o-", label=name)
    for axis, title in zip(axes, ("value", "length of the mean gradient"), strict=True):
        axis.set(xscale="log", xlabel="rows in the batch", title=f"{title} / whole set", ylim=0)
        axis.axhline(1, color="grey", linewidth=0.8)
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=Path, nargs="+", default=[FEATURES])
    parser.add_argument("--image", default="image_dino.11")
    parser.add_argument("--text", default="text_minilm.06")
    parser.add_argument("--bank", type=int, default=512)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()

    g = torch.Generator().manual_seed(0)
    sets = [load_file(path) for path in arguments.features]
    image, text = (
        torch.cat([features[key].float() for features in sets])
        for key in (arguments.image, arguments.text)
    )
    order = torch.randperm(len(image), generator=g)
    image, text = standardised(image[order]), standardised(text[order])
    head = ridge(image, text).requires_grad_()
    bank, pool = image[: arguments.bank], image[arguments.bank :]
    whole = structure_loss(image, image @ head)
    (exact,) = torch.autograd.grad(whole, head)

    print(f"{arguments.image}, {len(image)} rows, bank of {len(bank)}; R = {whole.item():.4f}")
    print("| rows | form | value / whole | spread | gradient / whole | cosine |")
    print("|--:|---|--:|--:|--:|--:|")
    curves: dict[str, list[tuple[int, float, float]]] = {name: [] for name in FORMS}
    rows = 8
    while rows <= len(pool):
        for name, form in FORMS.items():
            value, spread, gradient = drift(form, pool, bank, head, rows, g)
            length = (gradient.norm() / exact.norm()).item()
            cosine = torch.cosine_similarity(gradient.flatten(), exact.flatten(), 0).item()
            value, spread = value / whole.item(), spread / whole.item()
            curves[name].append((rows, value, length))
            print(f"| {rows} | {name} | {value:.2f} | {spread:.2f} | {length:.2f} | {cosine:.2f} |")
        rows *= 2
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
