"""A model card: what a visitor of the Hugging Face Hub reads first, Markdown below YAML.

Texts of others, such as the names of layers, are escaped: they are shown as they are, and none can
end a table, a code block or the header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

LIBRARY = "structure-reg"
REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
# Inside a word, as in the address of a page, some of these signs are only signs.
MARKUP = re.compile(
    r"[\\`*\[\]<>|$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<![\w/])#|(?<!/)~|&(?=#?\w+;)"
)


class About(NamedTuple):
    """What only the author of a model knows of it."""

    encoders: Sequence[str] | None = None
    data: str | None = None
    scores: Mapping[str, float] | None = None
    license: str | None = None


class Model(NamedTuple):
    """What a model says of itself."""

    summary: str
    sides: Sequence[str]  # their names
    rows: Mapping[str, Sequence[str]]  # of a table with a column for each side
    facts: Mapping[str, str]
    scores: Mapping[str, float]
    options: str  # the call that it was fitted by, or nothing
    usage: str  # lines of Python


def model_card(model: Model, about: About) -> str:
    """Text of a README.md with the metadata that the Hub reads."""
    encoders = about.encoders
    rows = ({} if encoders is None else {"Encoder": encoders}) | dict(model.rows)
    facts = dict(model.facts) | ({} if about.data is None else {"Data": about.data})
    scores = {**(about.scores or {}), **model.scores}
    parts = [
        header(about),
        f"# {escaped(' and '.join(encoders))}, aligned" if encoders else "# Aligned encoders",
        model.summary,
        table(["", *model.sides], ((name, *cells) for name, cells in rows.items())),
        "\n".join(f"- {name}: {escaped(fact)}" for name, fact in facts.items()),
        "## How to use",
        "With `structure-reg`, `safetensors` and `huggingface_hub` installed:",
        code(model.usage),
    ]
    if scores:
        numbers = ((name, number(float(score))) for name, score in scores.items())
        parts += ["## Scores", table(["Score", "Value"], numbers)]
    if model.options:
        parts += ["## How it was fitted", code(model.options)]
    return "\n\n".join(filter(None, parts)) + "\n"


def header(about: About) -> str:
    """Metadata in YAML, of which JSON is a part; the Hub refuses what cannot be an id."""
    encoders = list(dict.fromkeys(filter(is_repo, about.encoders or ())))
    fields = {
        "library_name": LIBRARY,
        "license": about.license,
        "tags": [LIBRARY, "multimodal", "alignment"],
        "base_model": encoders,
        # Without it, the Hub calls a model of two encoders a merge of them.
        "base_model_relation": "adapter" if encoders else None,
        "datasets": [about.data] if is_repo(about.data) else [],
    }
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items() if value]
    return "\n".join(["---", *lines, "---"])


def is_repo(text: str | None) -> bool:
    """Whether a text has the form of an id on the Hub, owner/name."""
    return text is not None and REPO_ID.fullmatch(text) is not None


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    first, *others = ([escaped(cell) for cell in row] for row in (titles, *rows))
    lines = [first, ["---"] * len(first), *others]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def code(text: str) -> str:
    """A block whose fence is longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}python\n{text}\n{fence}"


def escaped(text: str) -> str:
    """A text of one line that Markdown shows as it is."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return MARKUP.sub(r"\\\g<0>", shown)
