"""Migrating an index: on small models of vectors, without a network."""

from __future__ import annotations

import lzma
import math
import os
import subprocess
import sys
from pathlib import Path

import embed
import migration
import numpy as np
import pytest
import texts
import torch
from torch import Tensor

from structure_reg import search

INDEX = """Package: one
Description-md5: 0
Description-en: Small editor
 An editor that is small, and edits what
 is small.
 .
 It has no menu.

Package: one-doc
Description-en: Small editor
 The documentation of an editor that has the same title.

Package: short
Description-en: Too short
 Few words.

Package: two
Description-en: Large editor
 An editor of the largest kind, ümläuts included.
"""


@pytest.fixture(scope="module")
def vectors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Texts and queries by an old and a new model, whose 12 concepts are under noise."""
    g = torch.Generator().manual_seed(0)

    def rows(concepts: Tensor, W: Tensor) -> Tensor:
        noise = torch.randn(len(concepts), W.shape[1], generator=g)
        return torch.nn.functional.normalize(concepts @ W + 1 + 2 * noise)

    of_texts = torch.randn(400, 12, generator=g)
    of_queries = of_texts + 0.3 * torch.randn(400, 12, generator=g)
    old, new = torch.randn(12, 24, generator=g), torch.randn(12, 32, generator=g)
    return rows(of_texts, old), rows(of_queries, old), rows(of_texts, new), rows(of_queries, new)


# The texts
def test_texts_are_read_from_the_index_of_translations(tmp_path: Path) -> None:
    path = tmp_path / "Translation-en.xz"
    path.write_bytes(lzma.compress(INDEX.encode()))
    first, second = sorted(texts.sample(path, 2), reverse=True), texts.sample(path, 2)
    assert first == [
        ("two", "Large editor", "An editor of the largest kind, ümläuts included."),
        (
            "one",
            "Small editor",
            "An editor that is small, and edits what is small. It has no menu.",
        ),
    ]
    assert sorted(second) == sorted(first)


def test_too_few_texts_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "Translation-en").write_text(INDEX)
    with pytest.raises(SystemExit, match="expected 3 distinct texts, got 2"):
        texts.sample(tmp_path / "Translation-en", 3)


def test_vectors_come_back_in_the_order_of_the_texts(tiny_root: Path) -> None:
    some = ["a red bar", "this", "is a blue bar", "red"]
    folder = tiny_root / "models" / "tiny-text"
    first, last = embed.embedded(folder, some, [1, 2], batch=2)
    one_by_one = torch.cat([embed.embedded(folder, [text], [2])[0] for text in some])
    assert first.shape == last.shape == (4, 16)
    torch.testing.assert_close(last, one_by_one)
    torch.testing.assert_close(last.norm(dim=1), torch.ones(4))


# The map
def test_inner_products_rank_as_csls_does(vectors: tuple[Tensor, ...]) -> None:
    old, _, new, queries = vectors
    fit = migration.fitted(old[300:], new[300:])
    expected = search(
        fit.new(queries[:300]), fit.old(old[:300]), csls=(fit.bank, fit.old(old[300:]))
    ).indices
    scores = migration.query_rows(fit, queries[:300]) @ migration.index_rows(fit, old[:300]).mT
    assert torch.equal(scores.topk(10).indices, expected)


def test_raw_queries_find_in_the_folded_index_what_mapped_ones_find(
    vectors: tuple[Tensor, ...],
) -> None:
    """Each score is that of the mapped query times a length, which is 1 in a fixed direction."""
    old, _, new, queries = vectors
    fit = migration.fitted(old[300:], new[300:])
    rows = migration.index_rows(fit, old[:300])
    for q in queries[:20]:
        length = fit.new(q).norm().item()
        scores = migration.folded(fit, rows, length) @ torch.cat([q, torch.ones(1)])
        expected = length * rows @ migration.query_rows(fit, q[None])[0]
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_map_writes_the_same_index_in_blocks(
    vectors: tuple[Tensor, ...], tmp_path: Path
) -> None:
    old, _, new, _ = vectors
    fit = migration.fitted(old[300:], new[300:])
    migration.save_migration(fit, tmp_path)
    np.save(tmp_path / "stored.npy", old[:300].numpy().astype(np.float16))
    stored = np.load(tmp_path / "stored.npy", mmap_mode="r")
    again = migration.load_migration(tmp_path)
    rows = migration.write_index(again, stored, tmp_path / "index.npy", block=77)
    assert rows.dtype == np.float32
    expected = migration.index_rows(fit, torch.from_numpy(stored[:].astype(np.float32)))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "index.npy")), expected)


# The report
def test_gains_are_those_of_ndcg() -> None:
    found = torch.tensor([[3, 1, 2], [3, 1, 2], [3, 1, 2], [3, 1, 2]])
    expected = torch.tensor([1, 1 / math.log2(3), 1 / 2, 0], dtype=torch.float64)
    torch.testing.assert_close(migration.gains(found, torch.tensor([3, 1, 2, 0])), expected)


def test_the_report_agrees_with_other_texts(vectors: tuple[Tensor, ...]) -> None:
    """The report sees the calibration texts alone; the truth is that of 300 texts that it lacks."""
    old, old_queries, new, new_queries = vectors
    rows = torch.arange(300, 400)
    found = migration.report(old, rows, new[rows], new_queries[rows], old_queries[rows])
    fit = migration.fitted(old[rows], new[rows])
    rest = torch.arange(300)
    banks = fit.bank, fit.old(old[rows])
    top = search(fit.new(new_queries[rest]), fit.old(old[rest]), csls=banks).indices
    truth = migration.gains(top, rest).mean()
    of_old = migration.gains(search(old_queries[rest], old[rest]).indices, rest).mean()
    kept, low, high = found.kept()
    assert low < kept < high
    assert low - 0.05 < truth / of_old < high + 0.05
    assert 0.5 < of_old < 1


def test_without_the_old_model_the_share_is_of_a_perfect_search(
    vectors: tuple[Tensor, ...],
) -> None:
    old, _, new, new_queries = vectors
    rows = torch.arange(60)
    found = migration.report(old, rows, new[rows], new_queries[rows])
    assert found.kept()[0] == pytest.approx(found.mapped.mean().item())
    assert "old index" not in str(found)


def test_a_report_on_models_that_share_nothing_is_a_no_go(vectors: tuple[Tensor, ...]) -> None:
    old, old_queries, new, new_queries = vectors
    rows = torch.arange(60)
    mixed = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    found = migration.report(old, rows, new[mixed], new_queries[mixed], old_queries[rows])
    assert found.mapped.mean() < 0.1
    assert found.verdict(0.9).endswith("no-go")
    assert "60 left-out queries" in str(found)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.95, "go"), (0.9, "undecided, use more calibration texts"), (0.5, "no-go")],
)
def test_the_verdict_is_by_the_interval(share: float, said: str) -> None:
    mapped = (torch.arange(200) < 200 * share).double()
    found = migration.Report(mapped, torch.ones(200).double())
    kept, low, high = found.kept()
    spread = 1.96 * math.sqrt(share * (1 - share) / 200)  # of a share, by the normal distribution
    assert kept == pytest.approx(share)
    assert (high - low) / 2 == pytest.approx(spread, rel=0.15)
    assert found.verdict(0.9).endswith(f"0.90 wanted: {said}")


# The commands
@pytest.fixture
def data(vectors: tuple[Tensor, ...], tmp_path: Path) -> Path:
    for name, descriptions, titles in (("minilm", *vectors[:2]), ("mpnet", *vectors[2:])):
        np.save(tmp_path / f"{name}.descriptions.npy", descriptions.numpy())
        np.save(tmp_path / f"{name}.titles.npy", titles.numpy())
    return tmp_path


def run(script: str, *options: str, cwd: Path) -> str:
    """Run a command of the example."""
    folder = Path(migration.__file__).parent
    command = [sys.executable, str(folder / script), *options, "--data", "."]
    environment = {**os.environ, "PYTHONPATH": str(folder.parents[1])}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SMALL = ("--stored", "300", "--queries", "100")


def test_the_table_has_a_row_per_method(data: Path) -> None:
    table = run("compare.py", *SMALL, "--sizes", "50", "100", "--seeds", "1", cwd=data)
    rows = {line[:34].strip(): line[34:].split() for line in table.splitlines()}
    assert rows["calibration texts"] == ["50", "100"]
    assert {"fit_ridge", "the same with CSLS", "old index, old queries"} < rows.keys()
    assert all(len(cells) == 2 for cells in rows.values())


def test_faiss_serves_the_map(data: Path) -> None:
    pytest.importorskip("faiss")
    printed = run("migrate.py", *SMALL, "--texts", "100", cwd=data)
    assert "mapped index, queries as they are" in printed
    files = {file.name for file in (data / "outputs" / "migrate_index").iterdir()}
    assert {"map.safetensors", "bank.npy", "index.npy", "index.faiss"} <= files
