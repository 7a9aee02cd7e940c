"""The public names and their signatures as text; `python tests/public_api.py` writes the list anew.

A change of the list is a change for users: it belongs in CHANGELOG.md, and a removal or a rename
goes through the deprecation that CONTRIBUTING.md describes.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ForwardRef

import structure_reg

LIST = Path(__file__).with_name("public_api.txt")


class AsWritten:
    """An annotation that prints as in the source, without quotes, under every Python."""

    def __init__(self, annotation: Any) -> None:
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        self.text = (
            annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        )

    def __repr__(self) -> str:
        return self.text


def signature(function: Any) -> str:
    found = inspect.signature(function)
    empty = inspect.Signature.empty

    def as_written(annotation: Any) -> Any:
        return empty if annotation is empty else AsWritten(annotation)

    parameters = [p.replace(annotation=as_written(p.annotation)) for p in found.parameters.values()]
    returns = as_written(found.return_annotation)
    return str(found.replace(parameters=parameters, return_annotation=returns))


def members(cls: type) -> Iterator[tuple[str, str]]:
    """Methods and properties that are written here, not those of torch or of a tuple."""
    for name, _ in inspect.getmembers(cls):
        member = inspect.getattr_static(cls, name)
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        public = inspect.isfunction(function) and not name.startswith("_")
        if public and function.__module__.startswith("structure_reg"):
            yield name, "" if isinstance(member, property) else signature(function)


def public_api() -> str:
    lines = []
    for name in structure_reg.__all__:
        value = getattr(structure_reg, name)
        lines.append(f"{name}{signature(value)}" if callable(value) else name)
        if isinstance(value, type):
            lines += [f"{name}.{member}{text}" for member, text in members(value)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    LIST.write_text(public_api())
