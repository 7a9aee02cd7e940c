"""Read the settings of a run: a YAML file, its base files, and overrides.

    base: ../default/openclipart_vit.yaml    # relative to this file; read first
    selection: {layers: last}                # sections are merged key by key
    grid: {data.train: [100, 200, 400]}      # one run for each combination

The keys of `data`, `selection` and `evaluation` are listed below. Those of `aligner`, `structure`
and `contrastive` are the options of the objects that they configure. An unknown key is an error.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any

import ablations
import similarities
import yaml

import structure_reg
from structure_reg.layers.grid import METRICS

DATA = {
    "pairs": None,  # the table, below --root like all other paths
    "images": None,  # a store of extract_features.py
    "texts": None,
    "train": "all",  # or a number of pictures of the train split, sampled by seed
    "captions": "first",  # captions of each training picture; or "all"
    "validation": True,  # stop where the val split is best; False trains to the end
    "positives": "both",  # pairs belong together if they share "image", "caption", "both"
    "extra": None,  # another set to train on in addition
    "unpaired": None,  # rows without partners
}
EXTRA = ("pairs", "images", "texts", "train", "captions")
# Either two stores and the number of rows of each, or the pictures of one half of a set's split
# and the captions of the other half.
UNPAIRED = ("images", "texts", "rows", "halves", "split")
SELECTION = {
    "layers": "best",  # "last", "binned", {last: n}, [image layer, text layer]
    "metric": "mutual_knn",
    "k": None,
    "permutations": 200,
    "max_samples": 5000,
}
EVALUATION = {
    "split": "test",
    "ks": [1, 5, 10],
    "neighbours": [5, 10, 20, 50, 100],
    "samples": 5000,  # for trustworthiness and continuity
    "retrieval": [],  # further sets, prepared and extracted with the same encoders
    "zero_shot": [],  # sets of classes, prepared in the same way
}
# "default" leaves the choice to the library.
STRUCTURES = {"default": dict, "paper": structure_reg.StructureLoss, **ablations.TERMS}
CONTRASTIVES = {
    "default": dict,
    "clip": structure_reg.ClipLoss,
    "siglip": structure_reg.SigLipLoss,
    "inner": ablations.InnerProducts,
}
PRESETS = {"default": structure_reg.Aligner, "released": structure_reg.released_aligner}
SCHEDULES = {"cosine": None, "constant": lambda _done: 1.0}
IDENTITY = "identity"  # no head: the model has already aligned its features
DEFAULTS: dict[str, Any] = {
    "data": DATA,
    "selection": SELECTION,
    "preset": "default",  # or "released": `aligner` then holds options of released_aligner
    "aligner": {},
    "structure": {"term": "default"},
    "contrastive": {"loss": "default"},
    "evaluation": EVALUATION,
    "seeds": [0],
    "grid": {},
}


def read(path: Path, overrides: Iterable[str] = (), base: Path | None = None) -> dict[str, Any]:
    """Read and check the settings of a file; `overrides` are "section.key=value" in YAML.

    `base` replaces the base of the file, to use another set or another encoder.
    """
    settings = merged(DEFAULTS, of_file(path, base))
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise SystemExit(f"--set: expected section.key=value, got {override!r}")
        settings = assigned(settings, key, yaml.safe_load(value))
    for run in runs(settings):
        check(run, path)
    return settings


def of_file(path: Path, base: Path | None = None) -> dict[str, Any]:
    if not path.is_file():
        raise SystemExit(f"{path}: expected a file of settings, got none")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise SystemExit(f"{path}: expected YAML, got: {said}") from None
    known(path, "setting", content, [*DEFAULTS, "base"])
    under = content.pop("base", None)
    if base is not None:
        return merged(of_file(base), content)
    return content if under is None else merged(of_file(path.parent / under), content)


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge section by section; keys of `over` replace those of `under`."""
    both = copy.deepcopy(dict(under))
    for section, content in over.items():
        if isinstance(content, dict) and section != "grid":
            # A different term or loss has different options, so those of `under` do not apply.
            kind = {"structure": "term", "contrastive": "loss"}.get(section)
            changed = kind in content and content[kind] != both.get(section, {}).get(kind)
            content = content if changed else {**both.get(section, {}), **content}
        both[section] = copy.deepcopy(content)
    return both


def assigned(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return the settings with one changed, such as seeds, data.train or data.extra.train."""
    section, *names = key.split(".")
    if not names:
        return merged(settings, {section: value})
    if section == "grid":  # its keys contain dots
        return merged(settings, {"grid": {**settings["grid"], key.removeprefix("grid."): value}})
    content: dict[str, Any] = copy.deepcopy(settings.get(section) or {})
    place = content
    for name in names[:-1]:
        place[name] = dict(place.get(name) or {})
        place = place[name]
    place[names[-1]] = value
    return merged(settings, {section: {names[0]: content[names[0]]}})


def runs(settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the settings for each combination of the grid, with its point of the grid."""
    keys, values = list(settings["grid"]), [as_list(v) for v in settings["grid"].values()]
    for combination in product(*values):
        run = {**settings, "grid": {}}
        for key, value in zip(keys, combination, strict=True):
            run = assigned(run, key, value)
        yield {**run, "grid": dict(zip(keys, combination, strict=True))}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# %% Checks: no part of a file is silently ignored
def known(path: Path, what: str, keys: Iterable[str], there: Iterable[str]) -> None:
    there = list(there)
    for key in keys:
        if key not in there:
            near = get_close_matches(str(key), there, n=1)
            hint = f"; nearest is {near[0]}" if near else ""
            raise SystemExit(
                f"{path}: expected the {what} to be among {', '.join(there)}, got {key!r}{hint}"
            )


def options_of(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def check(settings: Mapping[str, Any], path: Path) -> None:
    known(path, "setting", settings, DEFAULTS)
    for section, defaults in (("data", DATA), ("selection", SELECTION), ("evaluation", EVALUATION)):
        known(path, f"setting of {section}", settings[section], defaults)
    known(path, "setting of data.extra", settings["data"]["extra"] or (), EXTRA)
    known(path, "setting of data.unpaired", settings["data"]["unpaired"] or (), UNPAIRED)
    selection = settings["selection"]
    known(path, "metric", [selection["metric"]], [*METRICS, *similarities.METRICS])
    for section, kind, kinds in (
        ("structure", "term", STRUCTURES),
        ("contrastive", "loss", CONTRASTIVES),
    ):
        options = dict(settings[section])
        name = options.pop(kind)
        known(path, f"{section} {kind}", [name], kinds)
        if options and name == "default":
            raise SystemExit(
                f"{path}: expected {section}.{kind} for the options {', '.join(options)}, got none"
            )
        if name != "default":
            known(path, f"option of {section} {name}", options, options_of(kinds[name]))
    known(path, "preset", [settings["preset"]], PRESETS)
    elsewhere = {"pairs", "layers", "contrastive", "structure", "seed"}
    options_of_aligner = options_of(PRESETS[settings["preset"]])
    taken = [name for name in options_of_aligner if name not in elsewhere]
    known(path, "option of aligner", settings["aligner"], taken)
    known(path, "lr_schedule", [settings["aligner"].get("lr_schedule", "cosine")], SCHEDULES)
