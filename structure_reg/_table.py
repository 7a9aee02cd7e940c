"""Small tables of results, as text for a terminal and as HTML for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

Cells = Sequence[Sequence[str]]  # the first row is the header, the first column holds the names


def text_table(cells: Cells, widths: Sequence[int]) -> str:
    """Names to the left, values to the right."""
    return "\n".join(
        "".join(
            f"{cell:{'>' if column else '<'}{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def html_table(cells: Cells, caption: str = "", notes: Sequence[str] = ()) -> str:
    """The same, with a caption above and a paragraph for each note below."""
    header, *rows = ([escape(cell) for cell in row] for row in cells)
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(
        f"<tr><th>{name}</th>" + "".join(f"<td>{value}</td>" for value in values) + "</tr>"
        for name, *values in rows
    )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{below}"
