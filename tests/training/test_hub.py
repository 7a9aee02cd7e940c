"""An Aligner on the Hub: both files of a folder, and what is called of huggingface_hub."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from contract import normal
from fake_hub import FakeApi, cached
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import structure_reg as sr

N = 60
SHARED = normal(N, 5, seed=0)
X = (SHARED @ normal(5, 9, seed=1) + 0.5 * normal(N, 9, seed=2)).float()
Y = (SHARED @ normal(5, 7, seed=3) + 0.5 * normal(N, 7, seed=4)).float()
ODD = "a|b`\n"  # the name of a layer
OLD = Path(__file__).parent / "files" / "aligner_0.1.0.safetensors"
FILES = ("README.md", "model.safetensors")


def layers(y: Tensor) -> dict[str, Tensor]:
    return {"block 1": y, ODD: y.flip(1)}


@pytest.fixture(scope="module")
def aligner() -> sr.Aligner:
    blank = sr.Aligner(layers=(0, ["block 1", ODD]), dim=4, epochs=3)
    return blank.fit([X[:40]], layers(Y[:40]), validation=([X[40:]], layers(Y[40:])))


def same(one: sr.Aligner, other: sr.Aligner) -> bool:
    of_x = torch.equal(one.transform_x(X), other.transform_x(X))
    return of_x and torch.equal(one.transform_y(layers(Y)), other.transform_y(layers(Y)))


def content(tensors: Path) -> Any:
    """Texts and values; safetensors writes them in any order."""
    with safe_open(tensors, framework="np") as file:
        texts = file.metadata()
    return texts, {name: tensor.tolist() for name, tensor in load_file(tensors).items()}


def card_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_folder_comes_back(aligner: sr.Aligner, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "pair"
    for _ in range(2):  # over its own files too
        aligner.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    for name in (folder, str(folder)):
        loaded = sr.Aligner.from_pretrained(name)
        assert same(loaded, aligner)
        assert (loaded.layers_, loaded.n_pairs_) == (aligner.layers_, 40)
    loaded.save_pretrained(tmp_path / "again")
    again, first = (of / "model.safetensors" for of in (tmp_path / "again", folder))
    assert content(again) == content(first)


def test_the_card_says_what_the_fit_was(aligner: sr.Aligner, tmp_path: Path) -> None:
    aligner.save_pretrained(
        tmp_path,
        encoders=("owner/vision", "a text encoder"),
        data="clip art",
        scores={"recall, test": torch.tensor(0.25), "pairs | test": 12_345},
        license="cc-by-4.0",
    )
    card = card_of(tmp_path)
    scores = aligner.history_["validation"]
    step = aligner.history_["validation_step"][scores.index(max(scores))]
    for line in (
        "# owner/vision and a text encoder, aligned",
        "| Encoder | owner/vision | a text encoder |",
        r"| Layers | 0 | block 1, a\|b\` |",
        "| Columns | 9 | 14 |",
        "| Head | LinearHead | LinearHead |",
        "- Training pairs: 40",
        f"- Training stopped: {aligner.stopped_}",
        "- Data: clip art",
        "| recall, test | 0.25 |",
        r"| pairs \| test | 12,345 |",
        f"| mean recall on the validation pairs, best of {len(scores)} "
        f"(step {step:g}) | {max(scores):.4g} |",
        "Aligner(layers=(0, ['block 1', 'a|b`\\n']), dim=4, epochs=3)",
    ):
        assert line in card.splitlines()
    assert huggingface_hub.ModelCard(card).data.to_dict() == {
        "library_name": "structure-reg",
        "license": "cc-by-4.0",
        "tags": ["structure-reg", "multimodal", "alignment"],
        "base_model": ["owner/vision"],
        "base_model_relation": "adapter",
    }


def test_the_code_of_the_card_runs(
    aligner: sr.Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "it's a `pair`"
    aligner.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^`+python\n(from .*?)\n`+$", card_of(folder), re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {"x": X, "y": layers(Y)}
    exec(code, namespace)
    assert torch.equal(namespace["z_x"], aligner.transform_x(X))
    assert torch.equal(namespace["z_y"], aligner.transform_y(layers(Y)))


def constant(_: float) -> float:
    return 1.0


@pytest.mark.parametrize("head", ["cca", "ridge", "mlp"])
def test_the_card_of_another_head(head: str, tmp_path: Path) -> None:
    aligner = sr.Aligner(head=head, dim=3, epochs=2, lr_schedule=constant, device="cpu")
    aligner.fit(X, Y).save_pretrained(tmp_path)
    call = f"Aligner(head={head!r}, dim=3, epochs=2, lr_schedule=<function constant>)"
    assert call in card_of(tmp_path).splitlines()
    assert "## Scores" not in card_of(tmp_path)


def test_a_file_without_a_number_of_pairs(tmp_path: Path) -> None:
    old = sr.Aligner.load(OLD)
    assert old.n_pairs_ is None
    old.save_pretrained(tmp_path)
    assert "Training pairs" not in card_of(tmp_path)
    assert sr.Aligner.from_pretrained(tmp_path).n_pairs_ is None


def test_what_is_pushed_is_what_is_saved(
    aligner: sr.Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi(tmp_path / "uploaded")
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    about: dict[str, Any] = {"encoders": ("a", "b"), "scores": {"s": 1}, "license": "mit"}
    options: dict[str, Any] = {"private": True, "token": "secret", "commit_message": "First"}
    address = aligner.push_to_hub("pair", **about, **options)
    assert address == "https://huggingface.co/you/pair/commit/0"
    library = {"library_name": "structure-reg", "library_version": sr.__version__}
    assert api.calls["HfApi"] == {"token": "secret", **library}
    created, uploaded = api.calls["create_repo"], api.calls["upload_folder"]
    assert (created["repo_id"], created["private"], created["exist_ok"]) == ("pair", True, True)
    assert (uploaded["repo_id"], uploaded["commit_message"]) == ("you/pair", "First")
    aligner.save_pretrained(tmp_path / "saved", **about)
    assert sorted(path.name for path in api.folder.iterdir()) == sorted(FILES)
    saved = card_of(tmp_path / "saved")
    assert card_of(api.folder) == saved.replace("pretrained('saved')", "pretrained('you/pair')")
    tensors, pushed = (of / "model.safetensors" for of in (tmp_path / "saved", api.folder))
    assert content(tensors) == content(pushed)
    assert b"secret" not in pushed.read_bytes() + saved.encode()
    assert same(sr.Aligner.from_pretrained(api.folder), aligner)


def test_no_repository_is_made_for_what_cannot_be_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = FakeApi(tmp_path / "uploaded")
    monkeypatch.setattr(huggingface_hub, "HfApi", api)
    own = sr.Aligner(head=(nn.Linear(9, 3), nn.Linear(7, 3)), epochs=1).fit(X, Y)
    with pytest.raises(TypeError, match="expected heads that are one of"):
        own.push_to_hub("you/pair")
    with pytest.raises(RuntimeError, match=r"^Aligner.push_to_hub: "):
        sr.Aligner().push_to_hub("you/pair")
    assert "create_repo" not in api.calls


def test_a_download_is_read_from_the_cache_of_the_hub(
    aligner: sr.Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `hf_hub_download`, offline: the file lies where it keeps one."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    aligner.save_pretrained(tmp_path / "pair")
    cached(tmp_path / "pair" / "model.safetensors", tmp_path / "cache", "you/pair", "v1")
    where: dict[str, Any] = {"cache_dir": tmp_path / "cache"}
    assert same(sr.Aligner.from_pretrained("you/pair", revision="v1", **where), aligner)
    with pytest.raises(FileNotFoundError):
        sr.Aligner.from_pretrained("you/pair", revision="v2", **where)


def test_folders_need_no_huggingface_hub(
    aligner: sr.Aligner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    aligner.save_pretrained(tmp_path)
    assert same(sr.Aligner.from_pretrained(tmp_path), aligner)
    with pytest.raises(ImportError, match=r"^Aligner.from_pretrained: expected the package hugg"):
        sr.Aligner.from_pretrained("you/pair")
    with pytest.raises(ImportError, match=r"^Aligner.push_to_hub: expected the package hugg"):
        aligner.push_to_hub("you/pair")


@pytest.mark.parametrize(
    ("about", "error", "message"),
    [
        ({"encoders": "dinov2"}, TypeError, "encoders to be a sequence of strings, got str"),
        ({"encoders": 3}, TypeError, "encoders to be a sequence of strings, got int"),
        ({"encoders": ("a", 3)}, TypeError, "encoders to be strings, got str and int"),
        ({"encoders": ("a",)}, ValueError, "2 encoders, one for each head, got 1"),
        ({"data": 658}, TypeError, "data to be a string, got int"),
        ({"license": 2}, TypeError, "license to be a string, got int"),
        ({"license": "MIT License"}, ValueError, "license to be .* got 'MIT License'"),
        ({"license": "mit\n"}, ValueError, "license to be an identifier of the Hub"),
        ({"scores": [0.5]}, TypeError, "scores to be a dict from names to numbers"),
        ({"scores": {1: 0.5}}, TypeError, "scores to be a dict from names to numbers"),
        ({"scores": {"r": "high"}}, TypeError, "score 'r' to be a number, got str"),
        ({"scores": {"r": torch.ones(2)}}, TypeError, "score 'r' to be a number, got Tensor"),
        ({"scores": {"r": float("nan")}}, ValueError, "a finite score 'r', got nan"),
    ],
)
def test_what_a_card_cannot_hold(
    about: dict[str, Any], error: type[Exception], message: str, aligner: sr.Aligner, tmp_path: Path
) -> None:
    with pytest.raises(error, match=rf"^Aligner.save_pretrained: expected {message}"):
        aligner.save_pretrained(tmp_path / "pair", **about)
    assert not (tmp_path / "pair").exists()


def test_the_readme_of_something_else_stays(aligner: sr.Aligner, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# My project, with library_name: structure-reg\n")
    with pytest.raises(FileExistsError, match=r"^Aligner.save_pretrained: expected a folder with"):
        aligner.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    (tmp_path / "README.md").write_text("---\nlibrary_name: structure-reg\n---\n# Edited\n")
    aligner.save_pretrained(tmp_path)


def test_what_is_no_such_folder(aligner: sr.Aligner, tmp_path: Path) -> None:
    name = "Aligner.from_pretrained"
    with pytest.raises(FileNotFoundError, match=rf"^{name}: .* with the file model.safetensors"):
        sr.Aligner.from_pretrained(tmp_path)
    aligner.save_pretrained(tmp_path)
    tensors = tmp_path / "model.safetensors"
    names = (tmp_path / "you", "you", "../you/pair", "you/pair/a", "https://hf.co/you/p", tensors)
    for wrong in names:
        with pytest.raises(FileNotFoundError, match=rf"^{name}: expected a folder, or a repos"):
            sr.Aligner.from_pretrained(wrong)
    tensors.write_bytes(tensors.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"to be what Aligner\.save wrote"):
        sr.Aligner.from_pretrained(tmp_path)
    sr.save_pretrained_heads(tmp_path, sr.LinearHead(3, 2), sr.LinearHead(4, 2))
    with pytest.raises(ValueError, match=r"the format 'structure-reg heads 1'"):
        sr.Aligner.from_pretrained(tmp_path)
