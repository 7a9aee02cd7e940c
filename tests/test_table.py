"""Results show themselves as tables: in a terminal, a session and a notebook."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
import torch

import structure_reg as sr

X = torch.eye(6)
RESULTS = {
    "Retrieval": sr.retrieval(X, X, ks=(1, 5)),
    "ZeroShot": sr.zero_shot(X, X, torch.arange(6)),
    "StructureDiagnostics": sr.structure_diagnostics(X, X),
}


class Cells(HTMLParser):
    """The rows of a table, and the tags that are still open."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not attrs
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.rows[-1][-1] += data


@pytest.mark.parametrize("name", RESULTS)
def test_text_and_html_hold_the_same_cells(name: str) -> None:
    result = RESULTS[name]
    assert repr(result) == str(result)
    cells = Cells()
    cells.feed(result._repr_html_())
    assert not cells.open
    assert len({len(row) for row in cells.rows}) == 1
    words = [" ".join(row).split() for row in cells.rows]
    assert words == [line.split() for line in str(result).splitlines()]
    assert all(line == line.rstrip() for line in str(result).splitlines())


def test_values_stay_a_tuple() -> None:
    """Printing changes; unpacking and fields do not."""
    accuracies = RESULTS["ZeroShot"]
    ks, accuracy, _, macro_f1 = accuracies
    assert ks == (1, 5)
    assert accuracy[0] == macro_f1 == 1
