"""A model card shows what it was given, whatever that is, and its header is YAML."""

from __future__ import annotations

import html
import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from structure_reg._card import About, Model, model_card

HOSTILE = (
    "a | b",
    "*x* _y_ __z__ ~~s~~ ~t~",
    "<script>alert(1)</script>",
    "[l](javascript:x) ![i](x)",
    "`c` ``d`` ```",
    "&lt; & &amp; &#35;",
    "\\| x\\",
    "a\nb\r\n\n# h\u2028i",
    "--- ",
    "x_y_z a__b__c",
    "$$x$$ #",
    "\"quotes\" and 'quotes'",
)


def card(text: str, code: str = "pass") -> str:
    model = Model("Heads.", ["x", text], {text: ["1", text]}, {"Fact": text}, {}, code, code)
    return model_card(model, About((text, "b"), text, {text: 0.5}, "mit"))


def body(text: str) -> str:
    """As HTML, by a parser of Markdown with the tables and strikethrough of GitHub."""
    markdown_it = pytest.importorskip("markdown_it")
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    rendered: str = parser.render(text.split("\n---\n", 1)[1])
    return rendered


def found(tag: str, text: str) -> list[str]:
    """What the elements of a kind show."""
    inside = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", body(text), re.DOTALL)
    return [html.unescape(content) for content in inside]


def shown(text: str) -> str:
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


@pytest.mark.parametrize("text", HOSTILE)
def test_texts_are_shown_as_they_are(text: str) -> None:
    line = shown(text)
    assert found("t[dh]", card(text)) == [
        *("", "x", line),
        *("Encoder", line, "b"),
        *(line, "1", line),
        *("Score", "Value"),
        *(line, "0.5"),
    ]
    assert found("li", card(text)) == [f"Fact: {line}", f"Data: {line}"]
    assert found("h1", card(text)) == [f"{line} and b, aligned"]


@given(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip))
def test_any_text_is_shown_as_it_is(text: str) -> None:
    assert found("li", card(text)) == [f"Fact: {shown(text)}", f"Data: {shown(text)}"]


@pytest.mark.parametrize("code", ["x = '```'", "````\n```", "a\n~~~"])
def test_code_stays_in_its_block(code: str) -> None:
    blocks = re.findall(r'<code class="language-python">(.*?)</code>', body(card("a", code)), re.S)
    assert [html.unescape(block) for block in blocks] == [f"{code}\n"] * 2


@pytest.mark.parametrize("text", [*HOSTILE, "null", "owner/name", "no", "a/b/c", "a/b\n---\n"])
def test_the_header_is_yaml_with_ids_only(text: str) -> None:
    expected = {
        "library_name": "structure-reg",
        "license": "mit",
        "tags": ["structure-reg", "multimodal", "alignment"],
    }
    if text == "owner/name":
        expected |= {"base_model": [text], "base_model_relation": "adapter", "datasets": [text]}
    assert yaml.safe_load(card(text).split("\n---\n", 1)[0]) == expected


def test_what_is_not_known_is_not_named() -> None:
    text = model_card(Model("Heads.", ["x"], {"Columns": ["3"]}, {}, {}, "", "pass"), About())
    assert "None" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Aligned encoders",
        "## How to use",
    ]
