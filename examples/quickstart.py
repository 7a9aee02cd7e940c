"""Align two frozen encoders on 658 pairs: compare layers, with and without STRUCTURE.

    python examples/quickstart.py                        # a ViT-S/14 and MiniLM
    python examples/quickstart.py --image image_effnet   # an EfficientNet and MiniLM

Scores every pair of layers, trains linear heads on the last and on the selected pair with and
without STRUCTURE, fits two closed forms for comparison, and prints recall on pairs of unseen
concepts. The essential part is `train`: the last term of its loss is the line to add to your own
loop.
"""

# %%
import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from structure_reg import (
    clip_loss,
    fit_cca,
    fit_ridge,
    layer_similarity,
    retrieval,
    structure_diagnostics,
    structure_loss,
    temperature_for_perplexity,
)

parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
)
parser.add_argument(
    "--image",
    default="image_dino",
    choices=["image_dino", "image_effnet"],
    help="image encoder: a ViT-S/14 (default) or an EfficientNet-Lite0",
)
parser.add_argument("--text", default="text_minilm", choices=["text_minilm"], help="text encoder")
parser.add_argument(
    "--seeds", type=int, default=3, help="number of random seeds; default: %(default)s"
)
parser.add_argument("--steps", type=int, default=150, help="training steps; default: %(default)s")
parser.add_argument(
    "--weight",
    type=float,
    default=5.0,
    help="weight of STRUCTURE on each side; default: %(default)s",
)
parser.add_argument(
    "--temperature", type=float, default=0.2, help="temperature of STRUCTURE; default: %(default)s"
)
parser.add_argument(
    "--shared",
    action="store_true",
    help="preserve the neighbourhoods in the directions that both sides share, at a perplexity of "
    "40 and a weight of 25, as Aligner does",
)
parser.add_argument(
    "--output",
    type=Path,
    default=Path("outputs/quickstart.png"),
    help="picture to write; default: %(default)s",
)
args = parser.parse_args()

# %% Real features: every stored layer of both encoders, one row per pair
data = Path(__file__).parent / "data"
features = load_file(data / "openclipart.safetensors")
pairs = [json.loads(line) for line in (data / "openclipart.jsonl").read_text().splitlines()]

_, ids = np.unique([pair["text"] for pair in pairs], return_inverse=True)
ids = torch.from_numpy(ids)  # rows with equal text are positives of each other
train_rows = torch.tensor([pair["split"] == "train" for pair in pairs])
test_rows = ~train_rows
images = {k: v.float() for k, v in sorted(features.items()) if k.startswith(args.image)}
texts = {k: v.float() for k, v in sorted(features.items()) if k.startswith(args.text)}


# %% Choice of layers: mutual nearest neighbours on the training pairs, for every pair of layers
scores = layer_similarity(
    [x[train_rows] for x in images.values()], [y[train_rows] for y in texts.values()]
)
best_image, best_text = divmod(int(scores.argmax()), len(texts))
layer_pairs = {
    "last": (list(images)[-1], list(texts)[-1]),
    "selected": (list(images)[best_image], list(texts)[best_text]),
}
if layer_pairs["last"] == layer_pairs["selected"]:
    layer_pairs = {"last = selected": layer_pairs["last"]}


# %% What STRUCTURE preserves: the neighbourhoods of the features, or of their shared directions
def references(x: Tensor, y: Tensor) -> list[tuple[Tensor, float]]:
    """The reference of each side, and its temperature."""
    if not args.shared:
        return [(x, args.temperature), (y, args.temperature)]
    g_x, g_y = fit_cca(x, y)
    return [(z, temperature_for_perplexity(z, 40)) for z in (g_x(x), g_y(y))]


# %% Heads: a CLIP loop with one extra term
def train(
    x: Tensor, y: Tensor, kept: list[tuple[Tensor, float]], weight: float, seed: int, progress: tqdm
) -> tuple[nn.Module, ...]:
    (kept_x, t_x), (kept_y, t_y) = kept
    torch.manual_seed(seed)
    head_x, head_y = nn.Linear(x.shape[1], 256), nn.Linear(y.shape[1], 256)
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    optimizer = torch.optim.AdamW(
        [*head_x.parameters(), *head_y.parameters(), log_scale], lr=2e-3, weight_decay=1e-4
    )
    for _ in range(args.steps):
        z_x, z_y = head_x(x), head_y(y)
        loss = clip_loss(z_x, z_y, log_scale.exp(), ids=ids[train_rows])
        if weight:
            loss = loss + weight * (
                structure_loss(kept_x, z_x, temperature=t_x)
                + structure_loss(kept_y, z_y, temperature=t_y)
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress.update()
    return head_x.requires_grad_(False), head_y.requires_grad_(False)


# %% Recall on unseen concepts: each picture has one text, a text may have several pictures
def recalls(z_x: Tensor, z_y: Tensor, ids: Tensor) -> list[float]:
    """R@1, R@5, R@10 from image to text, then from text to image, in percent."""
    texts = torch.from_numpy(np.unique(ids.numpy(), return_index=True)[1])  # each text once
    found = retrieval(z_x, z_y[texts], ids=ids, y_ids=ids[texts], ks=(1, 5, 10))
    return (100 * torch.cat([found.x_to_y.recall, found.y_to_x.recall])).tolist()


results: dict[str, np.ndarray] = {}  # method -> (seeds, 6)
steps = len(layer_pairs) * 2 * args.seeds * args.steps
with tqdm(total=steps, desc="training heads", unit="step", mininterval=1) as progress:
    for name, (image, text) in layer_pairs.items():
        x, y = images[image], texts[text]
        kept = references(x[train_rows], y[train_rows])
        for weight, term in ((0.0, ""), (25.0 if args.shared else args.weight, " + STRUCTURE")):
            rows = []
            for seed in range(args.seeds):
                head_x, head_y = train(x[train_rows], y[train_rows], kept, weight, seed, progress)
                rows.append(recalls(head_x(x[test_rows]), head_y(y[test_rows]), ids[test_rows]))
            results[f"{name}{term}"] = np.array(rows)
        closed_forms = {
            "ridge": fit_ridge(x[train_rows], y[train_rows]),
            "CCA": fit_cca(x[train_rows], y[train_rows], dim=256),
        }
        for closed_form, (head_x, head_y) in closed_forms.items():
            row = recalls(head_x(x[test_rows]), head_y(y[test_rows]), ids[test_rows])
            results[f"{name}, {closed_form}"] = np.array([row])

# %% Results
print(f"\n{'':28}{'image to text':^21}{'text to image':^21}")
columns = "".join(f"{f'R@{k}':>7}" for k in (1, 5, 10))
print(f"{'':28}{columns}{columns}{'mean':>7}   ± over {args.seeds} seeds")
for name, rows in results.items():
    per_seed = rows.mean(1)
    spread = f"   {per_seed.std(ddof=1):.1f}" if len(rows) > 1 else ""
    cells = "".join(f"{value:7.1f}" for value in (*rows.mean(0), per_seed.mean()))
    print(f"{name:28}{cells}{spread}")
for name, (image, text) in layer_pairs.items():
    plain, structured = results[name].mean(), results[f"{name} + STRUCTURE"].mean()
    (x, t_x), (y, t_y) = references(images[image][train_rows], texts[text][train_rows])
    seen_x, seen_y = (structure_diagnostics(z, z, temperature=t) for z, t in ((x, t_x), (y, t_y)))
    print(
        f"\n{name}: {image} with {text}; STRUCTURE changes the mean recall by"
        f" {structured - plain:+.1f} points ({structured / plain - 1:+.0%}). At the temperatures"
        f" {t_x:.2g} and {t_y:.2g} a row of {len(x)} has"
        f" {seen_x.frozen_perplexity:.0f} effective neighbours in images and"
        f" {seen_y.frozen_perplexity:.0f} in texts."
    )

# %% Figure
figure, (grid, bars) = plt.subplots(
    1, 2, figsize=(11, 4), layout="constrained", gridspec_kw={"width_ratios": [1, 2]}
)
grid.imshow(scores.numpy(), cmap="Blues", aspect="auto")
for (row, column), value in np.ndenumerate(scores.numpy()):
    shade = "white" if value > (scores.max() + scores.min()) / 2 else "black"
    grid.text(column, row, f"{value:.3f}", ha="center", va="center", color=shade)
box = plt.Rectangle((best_text - 0.5, best_image - 0.5), 1, 1, fill=False, lw=3, ec="tab:orange")
grid.add_patch(box)
grid.set_xticks(range(len(texts)), [name.split(".")[1] for name in texts])
grid.set_yticks(range(len(images)), [name.split(".")[1] for name in images])
grid.set(xlabel=f"layer of {args.text}", ylabel=f"layer of {args.image}")
grid.set_title("mutual nearest neighbours\n(best pair boxed)")

for index, (name, rows) in enumerate(results.items()):
    color = "tab:orange" if "STRUCTURE" in name else "tab:gray" if "," in name else "tab:blue"
    spread = rows.mean(1).std(ddof=1) if len(rows) > 1 else 0
    bars.barh(index, rows.mean(), color=color, xerr=spread, capsize=4)
    bars.text(rows.mean() + spread + 0.3, index, f"{rows.mean():.1f}", va="center")
bars.set_yticks(range(len(results)), results)
bars.invert_yaxis()
bars.margins(x=0.12)
bars.spines[["top", "right"]].set_visible(False)
bars.set(xlabel="mean of R@1, R@5, R@10 both ways, %")
bars.set_title(f"{test_rows.sum()} pairs of unseen concepts, {train_rows.sum()} to train on")
args.output.parent.mkdir(parents=True, exist_ok=True)
figure.savefig(args.output, dpi=150)
print(f"wrote {args.output}")
