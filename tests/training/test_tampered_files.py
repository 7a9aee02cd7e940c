"""Files that `Aligner.save` and `save_heads` did not write are refused, whatever is in them."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import normal
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import structure_reg as sr

X, Y = normal(20, 6, seed=0).float(), normal(20, 6, seed=1).float()
MUTATIONS = int(os.environ.get("STRUCTURE_REG_MUTATIONS", "300"))
LOADERS: dict[str, Callable[[Path], Any]] = {
    "heads": sr.load_heads,
    "aligner": sr.Aligner.load,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    sr.save_heads(folder / "heads", *sr.fit_csa(X, Y, dim=3), sr.MlpHead(3, 2))
    fitted = sr.Aligner(epochs=2, dim=3).fit({("block", 1): X}, [Y], validation=(X, Y))
    fitted.save(folder / "aligner")
    return {name: folder / name for name in LOADERS}


def refused(name: str, path: Path, message: str = "") -> None:
    function = {"heads": "load_heads", "aligner": "Aligner.load"}[name]
    with pytest.raises(
        ValueError, match=f"^{function}: expected .* to be what .*{message}"
    ) as error:
        LOADERS[name](path)
    assert len(str(error.value)) < 1000 + len(str(path))


def rewritten(
    source: Path,
    path: Path,
    change: Callable[[dict[str, Any]], None] = lambda _: None,
    **texts: str,
) -> Path:
    with safe_open(source, framework="pt") as file:
        before = file.metadata()
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, path, {**before, **texts})
    return path


def with_header(source: Path, path: Path, old: str, new: str) -> Path:
    """A change of the header alone; the values stay."""
    data = source.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = data[8 : 8 + length].decode()
    assert old in header
    header = header.replace(old, new, 1)
    header += " " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + data[8 + length :])
    return path


def test_layers_named_by_tuples_come_back(files: dict[str, Path]) -> None:
    loaded = sr.Aligner.load(files["aligner"])
    assert loaded.layers_ == (("block", 1), 0)
    assert loaded.transform_x({("block", 1): X}).shape == (20, 3)
    other = sr.Aligner(head="cca").fit({frozenset(): X}, Y)
    with pytest.raises(TypeError, match=r"^Aligner.save: expected the layer of x to be named by"):
        other.save(files["aligner"].with_name("other"))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"options": '{"batch_size": 0}'}, "options that it cannot have"),
        ({"options": '{"head": "foo"}'}, "options that it cannot have"),
        ({"options": '{"dim": 1e999}'}, "options that it cannot have"),
        ({"options": f'{{"lr": {10**400}}}'}, "options that it cannot have"),
        ({"options": f'{{"seed": {10**400}}}'}, "options that it cannot have"),
        ({"options": '{"colour": 3}'}, "options that it cannot have"),
        ({"options": '{"standardise": "no"}'}, "options that it cannot have"),
        ({"options": "[[[]]]"}, "a part that cannot be read"),
        ({"options": "3"}, "a part that cannot be read"),
        ({"options": "[" * 100_000}, "a part that cannot be read"),
        ({"history": "[" * 100_000 + "]" * 100_000}, "a part that cannot be read"),
        ({"history": '{"contrastive": 3}'}, "a history whose contrastive is no list of numbers"),
        ({"history": '{"contrastive": ["a"]}'}, "a history whose contrastive is no list"),
        ({"history": '{"contrastive": [true]}'}, "a history whose contrastive is no list"),
        ({"history": "[1]"}, "a part that cannot be read"),
        ({"n_pairs": "0"}, "0 as its number of pairs"),
        ({"n_pairs": "true"}, "True as its number of pairs"),
        ({"n_pairs": '"many"'}, "many as its number of pairs"),
        ({"n_pairs": "[" * 100_000}, "a part that cannot be read"),
        ({"stopped": "3"}, "a stop that is no text"),
        ({"stopped": "after"}, "a part that cannot be read"),
        ({"layers": "[1]"}, "a part that cannot be read"),
        ({"layers": "[1, 2, 3]"}, "a part that cannot be read"),
        ({"layers": "[{}, 2]"}, "a part that cannot be read"),
        ({"layers": "3"}, "a part that cannot be read"),
        ({"heads": "[" * 100_000}, "an unreadable list of heads"),
        ({"heads": '[{"kind": [], "arguments": {}}]'}, "the head"),
        ({"heads": json.dumps([{"kind": "A" * 10**6, "arguments": {}}])}, "the head A"),
        ({"format": "f" * 10**6}, "the format"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_texts(texts: dict[str, str], message: str, files: dict[str, Path], tmp_path: Path) -> None:
    refused("aligner", rewritten(files["aligner"], tmp_path / "file", **texts), message)


@pytest.mark.parametrize("size", [10**9, 10**18, 10**30, 10**400, -1, 1.5, True, "6", None, [6]])
@pytest.mark.parametrize("kind", ["LinearHead", "MlpHead", "ResidualHead", "GatedHead", "AsifHead"])
def test_claimed_sizes_cost_no_memory(
    kind: str, size: Any, files: dict[str, Path], tmp_path: Path
) -> None:
    arguments = {"in_features": 6, "out_features": size} | ({"k": 1} if kind == "AsifHead" else {})
    heads = json.dumps([{"kind": kind, "arguments": arguments}])
    refused("heads", rewritten(files["heads"], tmp_path / "file", heads=heads))


def swap(tensors: dict[str, Any], one: str, other: str) -> None:
    tensors[one], tensors[other] = tensors[other], tensors[one]


# Whether the checksum alone tells: 0.1.0 wrote none.
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], bool]] = {
    "sides exchanged": (lambda t: swap(t, "mean_x", "mean_y"), True),
    "scalings exchanged": (lambda t: swap(t, "mean_x", "factor_x"), False),
    "heads exchanged": (lambda t: swap(t, "0.weight", "1.weight"), True),
    "half a head": (lambda t: t.update({"0.weight": t["0.weight"].half()}), True),
    "integers": (lambda t: t.update(mean_x=t["mean_x"].int()), False),
    "bits": (lambda t: t.update(mean_x=t["mean_x"].view(torch.int32)), False),
    "double": (lambda t: t.update(mean_x=t["mean_x"].double()), False),
    "narrow": (lambda t: t.update(mean_x=t["mean_x"][:3].clone()), False),
    "column": (lambda t: t.update(mean_x=t["mean_x"][:, None].clone()), False),
    "negative": (lambda t: t.update(factor_x=-t["factor_x"]), False),
    "infinite": (lambda t: t.update(factor_y=t["factor_y"] / 0), False),
    "missing": (lambda t: t.pop("factor_y"), False),
    "a long name": (lambda t: t.update({"n" * 10**5: t["mean_x"].clone()}), False),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tensors(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    change, checksum_alone = CHANGES[name]
    path = rewritten(files["aligner"], tmp_path / "file", change)
    refused("aligner", path)
    old = with_header(path, tmp_path / "old", '"crc32"', '"other"')
    if checksum_alone:
        sr.Aligner.load(old)
    else:
        refused("aligner", old)


def test_a_dtype_changed_in_the_header(tmp_path: Path) -> None:
    sr.save_heads(tmp_path / "half", sr.LinearHead(6, 4).half())
    refused(
        "heads", with_header(tmp_path / "half", tmp_path / "file", '"F16"', '"BF16"'), "checksum"
    )


def test_heads_without_a_common_width(files: dict[str, Path], tmp_path: Path) -> None:
    def narrower(tensors: dict[str, Any]) -> None:
        tensors["0.weight"] = tensors["0.weight"][:2].clone()
        tensors["0.bias"] = tensors["0.bias"][:2].clone()

    with safe_open(files["aligner"], framework="pt") as file:
        heads = json.loads(file.metadata()["heads"])
    heads[0]["arguments"]["out_features"] = 2
    path = rewritten(files["aligner"], tmp_path / "a", narrower, heads=json.dumps(heads))
    refused("aligner", with_header(path, tmp_path / "b", '"crc32"', '"other"'), "2 and 3 outputs")


@pytest.mark.parametrize("name", LOADERS)
def test_mutations_are_refused_or_harmless(
    name: str, files: dict[str, Path], tmp_path: Path
) -> None:
    """Flipped, removed and repeated bytes, half of them in the header."""
    data, draw, path = files[name].read_bytes(), random.Random(0), tmp_path / "file"
    (length,) = struct.unpack("<Q", data[:8])
    right = LOADERS[name](files[name])
    expected = right if name == "heads" else right.heads_
    for _ in range(MUTATIONS):
        mutated = bytearray(data)
        changes = draw.choice((1, 1, 2, 8))
        for _ in range(changes):
            i = draw.randrange(8 + length if draw.random() < 0.5 else len(mutated))
            i = min(i, len(mutated) - 1)
            kind = draw.randrange(4)
            if kind == 0:
                mutated[i] ^= 1 << draw.randrange(8)
            elif kind == 1:
                mutated[i] = draw.choice(b'0123456789"[]{},:-eE')
            elif kind == 2:
                del mutated[i : i + draw.choice((1, 8, 100))]
            else:
                mutated[i:i] = mutated[i : i + draw.choice((1, 8, 100))]
        path.write_bytes(bytes(mutated))
        try:
            loaded = LOADERS[name](path)
        except ValueError as error:
            assert "to be what" in str(error)  # noqa: PT017
            continue
        if changes == 1:
            heads = loaded if name == "heads" else loaded.heads_
            for head, whole in zip(heads, expected, strict=True):
                torch.testing.assert_close(head.state_dict(), whole.state_dict(), rtol=0, atol=0)
