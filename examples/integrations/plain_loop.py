"""A PyTorch loop on precomputed pairs, and the one line that STRUCTURE adds to it.

    python examples/integrations/plain_loop.py

Trains two linear heads twice, without the line and with it, on the real features kept beside the
examples, and prints what each run finds among unseen pairs and what it kept of the encoders'
neighbourhoods.
"""

# %%
import argparse

import torch
from clip_art import pairs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from structure_reg import clip_loss, neighbourhood_overlap, retrieval, structure_loss

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--batch", type=int, default=256)
args = parser.parse_args()


# %% The loop. A batch brings the frozen features x and y; without the `if` it is CLIP's.
def train(weight: float) -> nn.ModuleList:
    torch.manual_seed(0)
    head_x, head_y = nn.Linear(1280, 256), nn.Linear(384, 256)
    log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
    parameters = [*head_x.parameters(), *head_y.parameters(), log_scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    # drop_last: the batch is the neighbourhood, so a smaller one is another loss.
    loader = DataLoader(TensorDataset(*pairs("train")), args.batch, shuffle=True, drop_last=True)
    for _ in range(args.epochs):
        for x, y, ids in loader:
            z_x, z_y = head_x(x), head_y(y)
            loss = clip_loss(z_x, z_y, log_scale.exp(), ids=ids)
            if weight:  # the diff
                loss = loss + weight * (
                    structure_loss(x, z_x, temperature=0.2)
                    + structure_loss(y, z_y, temperature=0.2)
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return nn.ModuleList([head_x, head_y]).requires_grad_(False)


# %% Pairs of concepts that training has not seen; a text may have several pictures
x, y, ids = pairs("test")
_, first = torch.unique(ids, return_inverse=True)
texts = torch.tensor([int((first == i).nonzero()[0]) for i in range(int(first.max()) + 1)])
print(f"{'':18}{'mean recall':>12}{'neighbours kept: images':>26}{'texts':>8}")
for name, weight in (("CLIP", 0.0), ("CLIP + STRUCTURE", 5.0)):
    head_x, head_y = train(weight)
    z_x, z_y = head_x(x), head_y(y)
    found = retrieval(z_x, z_y[texts], ids=ids, y_ids=ids[texts]).mean_recall
    kept = [neighbourhood_overlap(frozen, z) for frozen, z in ((x, z_x), (y, z_y))]
    print(f"{name:18}{100 * found:10.1f} %{100 * kept[0]:24.1f} %{100 * kept[1]:6.1f} %")
