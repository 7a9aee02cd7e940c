"""A PyTorch loop on precomputed pairs, with the one term that STRUCTURE adds.

    python examples/integrations/plain_loop.py

Trains two linear heads twice, without and with the term, on the real features stored with the
examples. Prints the recall of each run on unseen pairs and the share of the encoders' neighbours
that it kept.
"""

# %%
import argparse

import torch
from clip_art import pairs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from structure_reg import (
    clip_loss,
    fit_cca,
    neighbourhood_overlap,
    retrieval,
    structure_loss,
    temperature_for_perplexity,
)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--batch", type=int, default=256)
args = parser.parse_args()

# %% Once: the directions that both sides share, and temperatures for the rows of a batch
x, y, ids = pairs("train")
g_x, g_y = fit_cca(x, y)
t_x, t_y = (temperature_for_perplexity(z[: args.batch], 40) for z in (g_x(x), g_y(y)))


# %% The loop. A batch contains the frozen features x and y; without the `if` this is CLIP.
def train(weight: float) -> nn.ModuleList:
    torch.manual_seed(0)
    head_x, head_y = nn.Linear(1280, 256), nn.Linear(384, 256)
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    parameters = [*head_x.parameters(), *head_y.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    # drop_last: neighbours come from the batch, so a smaller batch has a different loss.
    loader = DataLoader(TensorDataset(*pairs("train")), args.batch, shuffle=True, drop_last=True)
    for _ in range(args.epochs):
        for x, y, ids in loader:
            z_x, z_y = head_x(x), head_y(y)
            loss = clip_loss(z_x, z_y, log_scale.exp(), ids=ids)
            if weight:  # the added term
                loss = loss + weight * (
                    structure_loss(g_x(x), z_x, temperature=t_x)
                    + structure_loss(g_y(y), z_y, temperature=t_y)
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return nn.ModuleList([head_x, head_y]).requires_grad_(False)


# %% Pairs of concepts that do not occur in training; a text may have several pictures
x, y, ids = pairs("test")
_, first = torch.unique(ids, return_inverse=True)
texts = torch.tensor([int((first == i).nonzero()[0]) for i in range(int(first.max()) + 1)])
print(f"{'':18}{'mean recall':>12}{'neighbours kept: images':>26}{'texts':>8}")
for name, weight in (("CLIP", 0.0), ("CLIP + STRUCTURE", 25.0)):
    head_x, head_y = train(weight)
    z_x, z_y = head_x(x), head_y(y)
    found = retrieval(z_x, z_y[texts], ids=ids, y_ids=ids[texts]).mean_recall
    kept = [neighbourhood_overlap(frozen, z) for frozen, z in ((x, z_x), (y, z_y))]
    print(f"{name:18}{100 * found:10.1f} %{100 * kept[0]:24.1f} %{100 * kept[1]:6.1f} %")
