"""From the vectors of an old embedding model to an index that a new model searches.

A CCA is fitted to calibration texts, which both models embed. The stored vectors are mapped with
its head for the old model, the queries with its head for the new one, and a column holds the local
scaling of CSLS, so that an index of inner products ranks as `search(..., csls=...)` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from structure_reg import fit_cca, load_heads, local_scaling, save_heads, search

Array = Any  # of NumPy, in memory or mapped from a file, or a tensor


class Migration(NamedTuple):
    """What maps stored vectors and queries; `save_heads` keeps the heads, and any file the bank."""

    old: nn.Linear  # head of the old model, for stored vectors
    new: nn.Linear  # head of the new model, for queries
    bank: Tensor  # calibration texts as the new head maps them, (n, dim)


def fitted(old: Tensor, new: Tensor) -> Migration:
    """Fit the map to both models' vectors of the same texts, (n, d_old) and (n, d_new)."""
    head_old, head_new = fit_cca(old, new, standardise=False)
    return Migration(head_old, head_new, head_new(new).detach())


def save_migration(migration: Migration, folder: Path) -> None:
    """Save the heads and the bank; no file holds anything executable."""
    save_heads(folder / "map.safetensors", migration.old, migration.new)
    np.save(folder / "bank.npy", migration.bank.numpy())


def load_migration(folder: Path) -> Migration:
    """Read what `save_migration` wrote."""
    old, new = load_heads(folder / "map.safetensors")
    return Migration(old, new, torch.from_numpy(np.load(folder / "bank.npy")))


@torch.no_grad()
def index_rows(migration: Migration, stored: Tensor) -> Tensor:
    r"""Rows [z, -r / 2] of the index: the mapped vector, of unit length, and its local scaling."""
    z = nn.functional.normalize(migration.old(stored))  # (n, dim)
    r = local_scaling(z, migration.bank)  # (n,)
    return torch.cat([z, -r[:, None].to(z) / 2], 1)  # (n, dim + 1)


@torch.no_grad()
def query_rows(migration: Migration, queries: Tensor) -> Tensor:
    """Rows [z, 1], whose inner product with a row of the index is half its CSLS score."""
    z = nn.functional.normalize(migration.new(queries))  # (n, dim)
    return torch.cat([z, torch.ones_like(z[:, :1])], 1)  # (n, dim + 1)


@torch.no_grad()
def folded(migration: Migration, rows: Tensor, length: float) -> Tensor:
    r"""Rows of an index for unmapped queries [q, 1]: the head of the queries moved into the index.

    .. math::
        z^\top (W q + b) - \tfrac{l}{2} r
        = \bigl[ W^\top z, \; b^\top z - \tfrac{l}{2} r \bigr]^\top [q, 1]

    Divided by :math:`l = |W q + b|`, this is the score of `query_rows`. One index has one l for all
    queries, so take its mean over the calibration texts. Without CSLS, the ranking is the same.
    """
    z, minus_half_r = rows[:, :-1], rows[:, -1]  # (n, dim), (n,)
    offset = z @ migration.new.bias + length * minus_half_r
    return torch.cat([z @ migration.new.weight, offset[:, None]], 1)  # (n, d_new + 1)


def write_index(migration: Migration, stored: Array, path: Path, block: int = 65_536) -> Array:
    """Map stored vectors, which may be a memory map, block by block into a file of float32."""
    shape = (len(stored), migration.old.out_features + 1)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(stored), block):
        some = torch.from_numpy(np.asarray(stored[start : start + block], np.float32))
        rows[start : start + block] = index_rows(migration, some)
    rows.flush()
    return rows


# %% Whether to do it
def gains(found: Tensor, target: Tensor) -> Tensor:
    """Gain of nDCG@k of each query with one right answer: 1 / log2(1 + rank), or 0 beyond k."""
    hits = (found == target[:, None]).double()  # (n, k)
    return (hits / torch.arange(2, found.shape[1] + 2).double().log2()).sum(1)  # (n,)


class Report(NamedTuple):
    """Gains of left-out queries in the mapped index, and of the old model's in the old one."""

    mapped: Tensor  # (n,)
    old: Tensor | None  # (n,)

    def kept(self, resamples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
        """Share of the old nDCG@10 that the mapped index keeps, and its 95 % interval.

        The interval is a bootstrap over the queries. Without the old model, the share is of 1.
        """
        n = len(self.mapped)
        old = torch.ones_like(self.mapped) if self.old is None else self.old
        g = torch.Generator().manual_seed(seed)
        drawn = torch.randint(n, (resamples, n), generator=g)
        ratios = self.mapped[drawn].mean(1) / old[drawn].mean(1)
        low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=ratios.dtype)).tolist()
        return (self.mapped.mean() / old.mean()).item(), low, high

    def verdict(self, wanted: float) -> str:
        """Go if the whole interval is above what is wanted, no-go if it is below."""
        kept, low, high = self.kept()
        if high < wanted:
            said = "no-go"
        else:
            said = "go" if low >= wanted else "undecided, use more calibration texts"
        return f"keeps {kept:.3f} [{low:.3f}, {high:.3f}], {wanted:.2f} wanted: {said}"

    def __str__(self) -> str:
        """nDCG@10 and R@1, in which a gain of 1 is a first rank."""
        lines = [f"{len(self.mapped)} left-out queries   nDCG@10     R@1    R@10"]
        for name, gain in (("mapped index", self.mapped), ("old index", self.old)):
            if gain is None:
                continue
            measures = (gain, (gain == 1).double(), (gain > 0).double())
            lines.append(f"{name:>25}" + "".join(f"{m.mean():8.3f}" for m in measures))
        return "\n".join(lines)


@torch.no_grad()
def report(
    stored: Tensor,
    rows: Tensor,
    new: Tensor,
    new_queries: Tensor,
    old_queries: Tensor | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Report:
    """Fit without one fold of the calibration texts after another, and search for that fold.

    Parameters
    ----------
    stored : Tensor of shape (m, d_old)
        All vectors of the old index, or as many of them as memory holds.
    rows : Tensor of shape (n,)
        Which of them are calibration texts, int64.
    new : Tensor of shape (n, d_new)
        Vectors of the calibration texts by the new model.
    new_queries : Tensor of shape (n, d_new)
        A query for each calibration text, by the new model: its title, or a question it answers.
    old_queries : Tensor of shape (n, d_old), optional
        The same queries by the old model. Without them, if the old model is gone, the report
        compares with a search that is always right.
    folds, seed : int
        Number of folds, and seed of their order. Each fit has one fold less than the final one, so
        the report is slightly low.

    Returns
    -------
    Report
        Gains of the n queries. The texts that a fold is fitted to are left out of its gallery,
        since the fit knows them; all other vectors are in it.
    """
    n = len(rows)
    mapped = torch.zeros(n).double()
    old = None if old_queries is None else torch.zeros(n).double()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for left in order.chunk(folds):
        fit = order[~torch.isin(order, left)]
        gallery = torch.ones(len(stored), dtype=torch.bool)
        gallery[rows[fit]] = False
        target = (gallery.cumsum(0) - 1)[rows[left]]  # positions in the gallery
        migration = fitted(stored[rows[fit]], new[fit])
        banks = migration.bank, migration.old(stored[rows[fit]])
        z = migration.old(stored[gallery])
        found = search(migration.new(new_queries[left]), z, csls=banks).indices
        mapped[left] = gains(found, target)
        if old is not None and old_queries is not None:
            found = search(old_queries[left], stored[gallery]).indices
            old[left] = gains(found, target)
    return Report(mapped, old)
