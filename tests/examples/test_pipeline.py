"""From stores to a table: measured, trained and evaluated on 40 small pictures."""

from __future__ import annotations

import html
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import ablations
import evaluate
import extract_features
import features
import layer_pairs
import measure_alignment
import own_data
import prepare_data
import pytest
import results
import settings
import show
import similarities
import torch
import train_alignment

from structure_reg import StructureLoss, cka, structure_loss

Command = Callable[..., None]


@pytest.fixture(scope="module")
def prepared(tiny_root: Path) -> Path:
    """Stores of the pictures, the captions, a folder of classes and its prompts; and settings."""
    own_data.image_folder(tiny_root / "kinds" / "images", tiny_root / "kinds", split="test")
    vision, text = (f"hf:{tiny_root}/models/tiny-{name}" for name in ("vision", "text"))
    with pytest.MonkeyPatch.context() as patch:
        for table, options in (
            ("shapes", ("--encoder", vision, "--side", "image", "--name", "shapes/vision")),
            ("shapes", ("--encoder", text, "--side", "text", "--name", "shapes/text")),
            ("kinds", ("--encoder", vision, "--side", "image", "--name", "kinds/vision")),
            ("kinds", ("--encoder", text, "--prompts", "--name", "kinds/text-prompts")),
        ):
            where = (str(tiny_root / table / "pairs.csv"), "--root", str(tiny_root))
            patch.setattr(sys, "argv", ["extract_features.py", *where, *options])
            extract_features.main()
    (tiny_root / "stores.yaml").write_text(
        "data: {images: features/shapes/vision, texts: features/shapes/text}\n"
    )
    (tiny_root / "tiny.yaml").write_text(
        "base: stores.yaml\n"
        "data: {pairs: shapes/pairs.csv}\n"
        "selection: {permutations: 5}\n"
        "aligner: {epochs: 4, dim: 8}\n"
        "evaluation: {zero_shot: [kinds], neighbours: [2]}\n"
    )
    return tiny_root


@pytest.fixture
def command(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("MPLBACKEND", "agg")

    def run(script: ModuleType, *arguments: Any) -> None:
        name = f"{script.__name__}.py"
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), "--root", str(prepared)])
        script.main()

    return run


def test_measure(prepared: Path, tmp_path: Path, command: Command) -> None:
    metrics = "grid.selection.metric=[mutual_knn, cka, svcca, hcs, two_hop_cka]"
    command(measure_alignment, prepared / "tiny.yaml", "--output", tmp_path, "--set", metrics)
    reports = json.loads((tmp_path / "alignment.json").read_text())
    assert reports.pop("versions")["torch"] == torch.__version__
    assert len(reports) == 5
    assert len(list(tmp_path.glob("*.png"))) == 5
    for report in reports.values():
        assert len(report["scores"]) == 4
        assert len(report["scores"][0]) == 3
        assert {"best", "worst", "last", "bin 1", "bin 5"} <= set(report["binned"])


def test_train_and_evaluate(prepared: Path, tmp_path: Path, command: Command) -> None:
    options = ("--set", "seeds=[0,1]", "grid.data.train=[10, all]", "aligner.start=random")
    command(train_alignment, prepared / "tiny.yaml", *options, "--output", tmp_path)
    folders = sorted(path.parent for path in tmp_path.rglob("result.json"))
    assert len(folders) == 4
    left = {"settings.yaml", "versions.json", "result.json", "curves.png", "aligner.safetensors"}
    assert {path.name for path in folders[0].iterdir()} == left
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    assert {result["pairs"] for result in results} == {10, max(r["pairs"] for r in results)}
    assert all(1 <= len(result["history"]["contrastive"]) <= 4 for result in results)
    before = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    command(train_alignment, prepared / "tiny.yaml", *options, "--output", tmp_path)
    assert before == [(folder / "result.json").stat().st_mtime_ns for folder in folders]

    command(evaluate, tmp_path)
    runs = json.loads((tmp_path / "evaluation.json").read_text())["runs"]
    assert len(runs) == 4
    for run in runs:
        assert 0 <= run["retrieval"]["shapes"]["mean recall"] <= 1
        assert set(run["retrieval"]["shapes"]["image to text"]) >= {"recall", "precision"}
        assert run["zero-shot"]["kinds"]["classes"] == 8
        assert run["neighbourhoods"]["images"]["trustworthiness"].keys() == {"2"}
    assert (tmp_path / "preservation.png").stat().st_size > 10_000
    assert (tmp_path / "pairs.png").stat().st_size > 10_000
    assert "±" in (tmp_path / "table.txt").read_text()


def test_show_what_a_run_finds(prepared: Path, tmp_path: Path, command: Command) -> None:
    command(train_alignment, prepared / "tiny.yaml", "--output", tmp_path)
    command(show, tmp_path, "--queries", 2, "--results", 3)
    (path,) = tmp_path.rglob("found.html")
    page = path.read_text(encoding="utf-8")
    pictures_for_text, texts_for_picture = page.split("<h2>")[1:]
    assert pictures_for_text.count("<section>") == texts_for_picture.count("<section>") == 2
    assert pictures_for_text.count("<img ") == 6
    assert texts_for_picture.count("<img ") == 2
    assert page.count("<span") == 12
    assert not re.findall(r'(?:src|href)="(?!data:image/jpeg;base64,)', page)


def test_a_right_result_has_a_frame_and_a_text_is_escaped() -> None:
    texts = ["<b>", "two", "three"]
    side = show.Side(lambda i: html.escape(texts[i]), torch.eye(3), torch.tensor([0, 1, 2]))
    found = show.sections(side, side, count=3, k=1, between="")
    assert found.count('<span class="right"') == 3
    assert "&lt;b&gt;" in found
    apart = side._replace(ids=torch.tensor([3, 4, 5]))
    assert 'class="right"' not in show.sections(side, apart, count=3, k=1, between="")


@pytest.mark.parametrize(
    "options",
    [
        ["selection.layers=[hidden_states.1, hidden_states.2]", "data.captions=all"],
        ["selection.layers={last: 2}", "structure={term: kernel, kernel: rbf, levels: 2}"],
        ["selection.layers=last", "structure={term: kernel, kernel: spearman, weights: none}"],
        ["selection.layers=last", "structure={term: kernel, kernel: zscore}"],
        ["selection.layers=last", "structure={term: margin}", "contrastive.loss=siglip"],
        ["selection.layers=last", "data.unpaired={halves: shapes, split: train}"],
        [
            "selection.layers=last",
            "structure={term: anchors}",
            "data.unpaired={images: features/kinds/vision, texts: features/shapes/text, rows: 9}",
        ],
        [
            "selection.layers=last",
            "data.extra={pairs: shapes/pairs.csv, images: features/shapes/vision, train: 5}",
        ],
        ["selection.layers=last", "aligner.head=asif"],
        ["selection.layers=last", "contrastive.loss=inner", "aligner.lr_schedule=constant"],
    ],
    ids=lambda options: options[-1].split("=", 1)[0] + options[-1][-12:],
)
def test_every_kind_of_run(
    options: list[str], prepared: Path, tmp_path: Path, command: Command
) -> None:
    short = ["aligner.epochs=2", "evaluation.zero_shot=[]"]
    command(
        train_alignment, prepared / "tiny.yaml", "--set", *short, *options, "--output", tmp_path
    )
    command(evaluate, tmp_path)
    (run,) = json.loads((tmp_path / "evaluation.json").read_text())["runs"]
    assert run["retrieval"]["shapes"]["mean recall"] > 0


def test_an_encoder_that_aligned_itself_is_evaluated_as_it_is(
    prepared: Path, tmp_path: Path, command: Command
) -> None:
    options = ("aligner={head: identity}", "selection.layers=last", "evaluation.zero_shot=[kinds]")
    command(train_alignment, prepared / "tiny.yaml", "--set", *options, "--output", tmp_path)
    command(evaluate, tmp_path)
    (run,) = json.loads((tmp_path / "evaluation.json").read_text())["runs"]
    assert run["pairs"] == 0


def test_what_is_missing_is_said(prepared: Path, tmp_path: Path, command: Command) -> None:
    for option, message in (
        ("data.train=9999", r"expected at most \d+ pictures, got 9999"),
        ("data.images=features/none", "expected a store, got none"),
        ("data.train=5", "expected at least 8 training pairs that do not repeat, got 5"),
        ("data.pairs=null", "expected pairs, got none"),
        ("selection.layers=[a, b]", "expected one of hidden_states.0, .*, got 'a'"),
        ("selection.layers=first", "expected best, last, binned"),
    ):
        with pytest.raises(SystemExit, match=message):
            command(
                train_alignment, prepared / "tiny.yaml", "--set", option, "--output", tmp_path / "x"
            )
    with pytest.raises(SystemExit, match=r"expected runs of train_alignment\.py, got none"):
        command(evaluate, tmp_path)


# Any folder, and any way to write a path
SPELLINGS = ["bare", "dotted", "relative", "parent", "absolute"]


def spelled(path: Path, spelling: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Enter a folder, and return the path as written from there."""
    elsewhere = path.parent / "below"
    elsewhere.mkdir(exist_ok=True)
    cwd, written = {
        "bare": (path.parent, path.name),
        "dotted": (path.parent, f"./{path.name}"),
        "relative": (path.parents[1], f"{path.parent.name}/{path.name}"),
        "parent": (elsewhere, f"../{path.name}"),
        "absolute": (elsewhere, str(path)),
    }[spelling]
    monkeypatch.chdir(cwd)
    return written


def files(folder: Path) -> set[Path]:
    return {path.resolve() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("output", ["outputs/mine", "mine", "../mine", "absolute"])
def test_runs_are_below_the_output_whatever_the_path_of_their_settings(
    spelling: str,
    output: str,
    prepared: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "home" / "project" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text(
        f"base: {prepared}/tiny.yaml\n"
        "selection: {layers: last}\n"
        "aligner: {head: procrustes}\n"
        "evaluation: {zero_shot: []}\n"
        "grid: {data.pairs: [shapes/../shapes/pairs.csv]}\n"
    )
    written = spelled(mine, spelling, monkeypatch)
    place = tmp_path / "elsewhere" if output == "absolute" else Path(output)
    before = files(tmp_path)
    command(train_alignment, written, "--output", place)
    made = files(tmp_path) - before
    assert made == files(place)
    (result,) = place.resolve().rglob("result.json")
    assert result.relative_to(place.resolve()).parts[:2] == ("project", "mine")
    assert f"wrote 1 run to {place}" in capsys.readouterr().out
    command(train_alignment, mine, "--output", place.resolve())
    assert "skipped 1 that had a result" in capsys.readouterr().out
    command(evaluate, place)
    assert (place / "table.txt").is_file()


@pytest.mark.parametrize("label", ["/a/b", "../a/b", "./a//b", "a/../b", "a/b/..", "/../a/b/."])
def test_no_label_leaves_the_folder(label: str, tmp_path: Path) -> None:
    assert results.below(tmp_path, label) == tmp_path / "a" / "b"


def test_a_folder_has_the_runs_of_one_file(
    prepared: Path, tmp_path: Path, command: Command
) -> None:
    options = ("--output", tmp_path, "--set", "selection.layers=last", "aligner={head: procrustes}")
    command(train_alignment, prepared / "tiny.yaml", *options)
    with pytest.raises(SystemExit, match="expected a new folder, got one with the run of other"):
        command(train_alignment, prepared / "tiny.yaml", *options, "data.train=10")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_stores_are_below_the_root_whatever_the_path_of_their_table(
    spelling: str, tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same store for every way to write the paths, so that it resumes."""
    table = spelled(tiny_root / "shapes" / "pairs.csv", spelling, monkeypatch)
    folder = os.path.relpath(tiny_root / "models" / "tiny-text")
    for encoder in (f"hf:{folder}", f"hf:{tiny_root}/models/tiny-text/"):
        arguments = (table, "--encoder", encoder, "--side", "text", "--root", str(tmp_path))
        monkeypatch.setattr(sys, "argv", ["extract_features.py", *arguments])
        extract_features.main()
    store = tmp_path.resolve() / "features" / "shapes" / "tiny-text"
    assert {path.parent for path in files(tmp_path)} == {store}


def test_heat_maps_have_names_of_their_own(
    prepared: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in "ab":
        (tmp_path / folder).mkdir()
        content = f"base: {prepared}/tiny.yaml\ngrid: {{data.images: [features/shapes/vision]}}\n"
        (tmp_path / folder / "one.yaml").write_text(content)
    monkeypatch.chdir(tmp_path / "a")
    command(measure_alignment, "one.yaml", "../b/one.yaml", "--output", "maps")
    names = {path.name for path in (tmp_path / "a" / "maps").glob("*.png")}
    assert names == {f"{x}-one-data.images=features-shapes-vision.png" for x in "ab"}


@pytest.mark.parametrize(
    "script", [prepare_data, extract_features, measure_alignment, train_alignment, evaluate]
)
def test_help_shows_the_commands(
    script: ModuleType, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(script, "--help")
    assert ended.value.code == 0
    assert (script.__doc__ or "").strip() in capsys.readouterr().out


# The parts
def loaded(prepared: Path) -> features.Features:
    return features.load(settings.read(prepared / "tiny.yaml")["data"], prepared)


def test_pairs_find_their_rows(prepared: Path) -> None:
    of = loaded(prepared)
    assert len(of.pairs) == 80
    assert len(of.images.ids) == 40
    rows = of.split("train", "first")
    assert len({of.pairs[row].id for row in rows.tolist()}) == len(rows)
    assert torch.equal(of.x("layernorm", rows), of.images["layernorm"][of.image_rows[rows]].float())
    assert of.ids[0] == of.ids[1] != of.ids[2]


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    rows = torch.arange(100, 200)
    small, large = (features.subsample(rows, count, seed=3).tolist() for count in (10, 50))
    assert set(small) < set(large)
    assert features.subsample(rows, 10, seed=4).tolist() != small


def test_binned_layers_span_the_scores() -> None:
    scores = torch.linspace(0, 1, 20, dtype=torch.float64).view(5, 4)
    names = tuple("abcde"), tuple("wxyz")
    grid = layer_pairs.LayerScores(scores, *names, {}, "", lambda _ax: None)
    found = layer_pairs.choose_pairs(grid, "binned", seed=0)
    assert found["best"] == ("e", "z")
    assert found["worst"] == ("a", "w")
    assert [found[f"bin {n}"][0] for n in range(1, 6)] == list("abcde")
    corner = layer_pairs.choose_pairs(grid, {"last": 2}, seed=0)
    assert corner == {"best of the last 2": ("e", "z")}
    assert layer_pairs.choose_pairs(grid, [1, "x"], seed=0) == {"b with x": ("b", "x")}


def test_the_plain_case_of_an_ablation_is_the_loss() -> None:
    x, z, a, b = torch.randn(4, 12, 6, generator=torch.Generator().manual_seed(0))
    for levels in (1, 3):
        options: dict[str, Any] = {"temperature": 0.3, "levels": levels}
        ours = ablations.KernelStructure(**options)
        for anchors in (None, (a, b)):
            expected = StructureLoss(**options)(x, z, anchors=anchors)
            torch.testing.assert_close(ours(x, z, anchors=anchors), expected)
    margin = ablations.MarginStructure(margin=0.0, temperature=0.3)
    torch.testing.assert_close(margin(x, z), structure_loss(x, z, temperature=0.3))
    alone = ablations.AnchorStructure(temperature=0.3)(x, z, anchors=(a, b))
    torch.testing.assert_close(alone, structure_loss(a, b, temperature=0.3))


@pytest.mark.parametrize("kernel", ["zscore", "rbf", "spearman"])
def test_other_kernels_are_their_definitions_and_have_gradients(kernel: str) -> None:
    from scipy.spatial.distance import cdist
    from scipy.stats import spearmanr

    x = torch.randn(9, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    K = ablations.KERNELS[kernel](x).double()
    if kernel == "rbf":
        unit = (x / x.square().sum(1, keepdim=True).sqrt()).numpy()
        expected = torch.from_numpy(-cdist(unit, unit, "sqeuclidean"))
    elif kernel == "spearman":
        expected = torch.from_numpy(spearmanr(x.T.numpy()).statistic)
    else:
        z = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()
        expected = torch.from_numpy(1 - cdist(z, z, "cosine"))
    torch.testing.assert_close(K, expected, atol=1e-5, rtol=1e-5)
    z = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    ablations.KernelStructure(kernel=kernel, temperature=0.5)(x, z).backward()
    assert z.grad is not None
    assert z.grad.abs().max() > 0


def test_whitened_heads_have_no_correlations() -> None:
    from structure_reg import LinearHead

    torch.manual_seed(0)
    x, head = torch.randn(200, 6) @ torch.randn(6, 6), LinearHead(6, 4)
    with torch.no_grad():
        ablations.whiten(head, head(x))
        z = head(x)
    torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(4), atol=1e-3, rtol=1e-3)


def test_similarities_of_the_release() -> None:
    x = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    for name, metric in similarities.METRICS.items():
        assert metric(x, x) == pytest.approx(1, abs=1e-4), name
    y = torch.randn(30, 8, generator=torch.Generator().manual_seed(1))
    assert similarities.biased_cka(x, y) == cka(x, y, debiased=False)
    assert similarities.hcs_release(x, y) < similarities.hcs(x, y) < 1
