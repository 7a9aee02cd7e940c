"""A small table in HTML, for notebooks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(
    caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str]
) -> str:
    """A captioned table without styles of its own, with a paragraph per note below it."""
    cells = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows]
    return (
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{''.join(f'<th>{escape(name)}</th>' for name in headings)}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{row}</tr>' for row in cells)}</tbody></table>"
        f"{''.join(f'<p>{escape(note)}</p>' for note in notes)}"
    )
