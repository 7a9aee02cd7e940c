"""Every file of settings names options that exist, and the whole grid of the paper is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import settings
import yaml

CONFIGS = Path(settings.__file__).parent / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_file_is_sound(path: Path) -> None:
    """Reading checks each key of each run against the signatures of what takes it."""
    runs = list(settings.runs(settings.read(path)))
    assert runs
    assert all(run["data"]["pairs"] for run in runs)


def every_run() -> list[dict[str, Any]]:
    return [run for path in FILES for run in settings.runs(settings.read(path))]


def found(*keys: str) -> set[Any]:
    values = set()
    for run in every_run():
        value: Any = run
        for key in keys:
            value = (value or {}).get(key)
        values.add(
            yaml.safe_dump(value, default_flow_style=True)
            if isinstance(value, list | dict)
            else value
        )
    return values


def test_the_grid_is_in_them() -> None:
    heads = {"linear", "residual", "mlp", "cca", "csa", "procrustes", "ridge", "asif", "identity"}
    assert heads <= found("aligner", "head")
    assert {0, 0.1, 1, 5, 10, 100, 1000} <= found("aligner", "structure_weight")
    assert {1, 2, 3, 5} <= found("structure", "levels")
    assert {"paper", "kernel", "margin"} <= found("structure", "term")
    assert {"none"} <= found("structure", "weights")
    assert {"after", "before", "none"} <= found("structure", "centering")
    assert {"zscore", "rbf", "spearman"} <= found("structure", "kernel")
    assert {0.05, 0.2} <= found("structure", "temperature")
    assert {"clip", "siglip"} <= found("contrastive", "loss")
    layers = {"best", "last", "binned", "{last: 3}\n", "[hidden_states.9, hidden_states.6]\n"}
    assert layers <= found("selection", "layers")
    metrics = {
        "mutual_knn", "cka", "biased_cka", "cycle_knn", "lcs_knn", "svcca", "cknna",
        "one_hop_cka", "two_hop_cka", "three_hop_cka", "hcs", "hcs_release",
    }  # fmt: skip
    assert metrics <= found("selection", "metric")
    assert {10, 50, 100, "sqrt", "rice", "sturges"} <= found("selection", "k")
    pairs = {1000, 2500, 5000, 7500, 10_000, 25_000, 50_000, 75_000, "all"}
    assert pairs <= found("data", "train")
    assert set(range(80_000, 800_001, 80_000)) <= found("data", "extra", "train")
    assert "coco" in found("data", "unpaired", "halves")
    assert "imagenet-train/pairs.csv" in found("data", "extra", "pairs")
    assert "features/stl10/facebook--dinov2-giant" in found("data", "unpaired", "images")
    assert {"[1, 42, 55, 100, 430]\n", "[1, 42, 55]\n"} <= found("seeds")
    assert {"[1, 5, 10]\n"} <= found("evaluation", "ks")
    assert {"[100, 1000]\n"} <= found("evaluation", "neighbours")
    assert {"[flickr30k]\n"} <= found("evaluation", "retrieval")
    zero_shot = [yaml.safe_load(sets) for sets in found("evaluation", "zero_shot")]
    assert max(map(len, zero_shot)) == 26


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta: {}", "expected the setting to be among .*, got 'dta'; nearest is data"),
        (
            "data: {trian: 5}",
            "expected the setting of data to be among .*, got 'trian'; nearest is train",
        ),
        ("data: {extra: {par: 5}}", "expected the setting of data.extra to be among"),
        ("selection: {metric: mutual}", "expected the metric to be among .*, got 'mutual'"),
        (
            "structure: {term: paper, level: 2}",
            "expected the option of structure paper to be among .*nearest is levels",
        ),
        ("structure: {term: kernel, centering: none}", "option of structure kernel"),
        ("structure: {levels: 2}", "expected structure.term for the options levels, got none"),
        (
            "contrastive: {loss: clop}",
            "expected the contrastive loss to be among .*, got 'clop'; nearest is clip",
        ),
        (
            "aligner: {heat: linear}",
            "option of aligner to be among .*, got 'heat'; nearest is head",
        ),
        ("grid: {structure.level: [1, 2]}", "expected structure.term for the options level"),
        ("data: [", "expected YAML, got"),
    ],
)
def test_a_key_that_nothing_takes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(SystemExit, match=message):
        settings.read(tmp_path / "run.yaml")


def test_files_are_based_on_others_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "under.yaml").write_text("data: {train: 5, captions: all}\nseeds: [1, 2]\n")
    over = "base: under.yaml\nstructure: {term: paper}\ndata: {train: 7}\n"
    over += "grid: {structure.levels: [1, 2], seeds: [[3]]}\n"
    (tmp_path / "over.yaml").write_text(over)
    (tmp_path / "other.yaml").write_text("data: {captions: first, positives: image}")
    runs = list(settings.runs(settings.read(tmp_path / "over.yaml", ["selection.k=rice"])))
    assert [run["structure"] for run in runs] == [{"term": "paper", "levels": l} for l in (1, 2)]
    assert runs[0]["data"]["train"] == 7
    assert runs[0]["data"]["captions"] == "all"
    assert runs[0]["selection"]["k"] == "rice"
    swapped = settings.read(tmp_path / "over.yaml", base=tmp_path / "other.yaml")
    assert swapped["data"]["positives"] == "image"
    assert swapped["seeds"] == [0]
    nested = settings.assigned(swapped, "data.extra.train", 80_000)
    assert nested["data"]["extra"] == {"train": 80_000}
    with pytest.raises(SystemExit, match=r"expected section\.key=value, got 'seeds'"):
        settings.read(tmp_path / "over.yaml", ["seeds"])


def test_another_term_starts_from_its_own_options() -> None:
    run = settings.merged(
        {"structure": {"term": "paper", "levels": 3}}, {"structure": {"term": "margin"}}
    )
    assert run["structure"] == {"term": "margin"}
