"""From the vectors of an old embedding model to an index that a new model searches.

A CCA is fitted to calibration texts, which both models embed. Its head for the old model maps the
stored vectors, and its head for the new model maps the queries. One more column holds the local
scaling of CSLS, so that an index of inner products ranks as `search(..., csls=...)` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from structure_reg import fit_cca, load_heads, local_scaling, save_heads, search

RIDGES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1)  # those that `report` tries


class Vectors(NamedTuple):
    """Vectors of texts by one model, and of a query for each: a title, or a question it answers."""

    texts: Tensor  # (n, d)
    queries: Tensor | None  # (n, d); None if the model can no longer embed them


class Migration(NamedTuple):
    """What maps the stored vectors and the queries."""

    old: nn.Linear  # head of the old model, for stored vectors
    new: nn.Linear  # head of the new model, for queries
    bank: Tensor  # calibration queries as the new head maps them, (n, dim)


@torch.no_grad()
def fitted(old: Vectors, new: Vectors, ridge: float) -> Migration:
    """Fit the heads to both models' vectors of the calibration texts and of their queries.

    Without queries by the old model, the texts alone are the pairs. Embeddings have comparable
    columns, and their scale is a part of the model: they are not standardised.
    """
    x, y = old.texts, new.texts
    if old.queries is not None:
        x, y = torch.cat(old), torch.cat(new)
    head_old, head_new = fit_cca(x, y, ridge=ridge, power=1.0, standardise=False)
    return Migration(head_old, head_new, head_new(new.queries))


def save_migration(migration: Migration, folder: Path) -> None:
    """Save the heads and the bank; neither file holds anything executable."""
    save_heads(folder / "map.safetensors", migration.old, migration.new)
    np.save(folder / "bank.npy", migration.bank.numpy())


def load_migration(folder: Path) -> Migration:
    """Read what `save_migration` wrote."""
    old, new = load_heads(folder / "map.safetensors")
    return Migration(old, new, torch.from_numpy(np.load(folder / "bank.npy")))


# %% The index
@torch.no_grad()
def index_rows(head: nn.Linear, bank: Tensor, stored: Tensor) -> Tensor:
    """Rows [z, -r / 2] of the index: mapped vectors of unit length, and their local scaling."""
    z = nn.functional.normalize(head(stored))  # (n, dim)
    r = local_scaling(z, bank)  # (n,)
    return torch.cat([z, -r[:, None].to(z) / 2], 1)  # (n, dim + 1)


@torch.no_grad()
def query_rows(migration: Migration, queries: Tensor) -> Tensor:
    """Rows [z, 1], whose inner products with the rows of the index rank as CSLS does."""
    z = nn.functional.normalize(migration.new(queries))  # (n, dim)
    return torch.cat([z, torch.ones_like(z[:, :1])], 1)  # (n, dim + 1)


def nearest(migration: Migration, rows: Tensor, queries: Tensor) -> Tensor:
    """Places of the ten best rows of the index for each query, (n, 10)."""
    return (query_rows(migration, queries) @ rows.mT).topk(10).indices


@torch.no_grad()
def folded(migration: Migration, rows: Tensor) -> Tensor:
    r"""Rows of an index for [q, 1] with unmapped queries q: it contains the head of the queries.

    .. math::
        z^\top (W q + b) - \tfrac{l}{2} r
        = \bigl[ W^\top z, \; b^\top z - \tfrac{l}{2} r \bigr]^\top [q, 1]

    With :math:`l = |W q + b|` this ranks as `query_rows` does. One index has one l for all queries,
    here its mean over the calibration queries.
    """
    z, minus_half_r = rows[:, :-1], rows[:, -1]  # (n, dim), (n,)
    length = migration.bank.norm(dim=1).mean()
    offset = z @ migration.new.bias + length * minus_half_r
    return torch.cat([z @ migration.new.weight, offset[:, None]], 1)  # (n, d_new + 1)


def write_index(migration: Migration, stored: Any, path: Path, block: int = 65_536) -> np.ndarray:
    """Map an array of stored vectors, which may be a memory map, by blocks into a file."""
    shape = (len(stored), migration.old.out_features + 1)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, len(stored), block):
        some = torch.from_numpy(np.array(stored[start : start + block], np.float32))
        rows[start : start + block] = index_rows(migration.old, migration.bank, some)
    rows.flush()
    return rows


# %% Whether to do it
def gains(found: Tensor, target: Tensor) -> Tensor:
    """Gain of nDCG@k of queries with one right answer each: 1 / log2(1 + rank), or 0 beyond k."""
    hits = (found == target[:, None]).double()  # (n, k)
    return (hits / torch.arange(2, found.shape[1] + 2).double().log2()).sum(1)  # (n,)


class Report(NamedTuple):
    """The best ridge, and the gains of left-out queries with it and in the old index."""

    ridge: float
    mapped: Tensor  # (n,)
    old: Tensor | None  # (n,); None without the old model

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
        """Go if the whole interval is at least what is wanted, and no-go if it is below."""
        kept, low, high = self.kept()
        if high < wanted:
            said = "no-go"
        else:
            said = "go" if low >= wanted else "undecided, use more calibration texts"
        return f"keeps {kept:.3f} [{low:.3f}, {high:.3f}], {wanted:.2f} wanted: {said}"

    def __str__(self) -> str:
        """Return a table of nDCG and recall."""
        lines = [f"{len(self.mapped):>6} left-out queries   nDCG@10     R@1    R@10"]
        for name, gain in (("mapped index", self.mapped), ("old index", self.old)):
            if gain is not None:
                measures = (gain, (gain == 1).double(), (gain > 0).double())
                lines.append(f"{name:>24}  " + "".join(f"{m.mean():8.3f}" for m in measures))
        return "\n".join(lines)


@torch.no_grad()
def report(
    stored: Tensor,
    rows: Tensor,
    new: Vectors,
    old_queries: Tensor | None = None,
    *,
    folds: int = 5,
    seed: int = 0,
) -> Report:
    """Fit without one fold of the calibration texts after another, and search for that fold.

    All `RIDGES` are tried. The search among all stored vectors is hard enough to tell them apart,
    which a search among the calibration texts is not.

    Parameters
    ----------
    stored : Tensor of shape (m, d_old)
        Vectors of the old index: all, or a sample with the calibration texts in it.
    rows : Tensor of shape (n,)
        Which of them are the calibration texts, int64.
    new : Vectors
        The calibration texts and their queries by the new model, (n, d_new) each.
    old_queries : Tensor of shape (n, d_old), optional
        The queries by the old model, unless it is gone.
    folds, seed : int
        Number of folds, and seed of their order. A fit lacks one fold of the texts of the final
        one, so that the report is slightly low.

    Returns
    -------
    Report
        The ridge with the largest mean gain, and the gains of the n queries. The gallery holds
        all stored vectors but those of the texts that this fold is fitted to, which the fit knows.
    """
    n = len(rows)
    mapped = {ridge: torch.zeros(n).double() for ridge in RIDGES}
    of_old = torch.zeros(n).double()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    for left in order.chunk(folds):
        fit = order[~torch.isin(order, left)]
        old = Vectors(stored[rows[fit]], None if old_queries is None else old_queries[fit])
        gallery = torch.ones(len(stored), dtype=torch.bool)
        gallery[rows[fit]] = False
        others = stored[gallery]
        target = (gallery.cumsum(0) - 1)[rows[left]]  # places among the others
        for ridge in RIDGES:
            migration = fitted(old, Vectors(*(z[fit] for z in new)), ridge)
            z = index_rows(migration.old, migration.bank, others)
            found = nearest(migration, z, new.queries[left])
            mapped[ridge][left] = gains(found, target)
        if old_queries is not None:
            of_old[left] = gains(search(old_queries[left], others).indices, target)
    best = max(RIDGES, key=lambda ridge: mapped[ridge].mean())
    return Report(best, mapped[best], None if old_queries is None else of_old)
