"""What users can call is what is checked in: nothing comes, goes or changes unseen."""

from __future__ import annotations

from public_api import LIST, public_api


def test_names_and_signatures_are_those_checked_in() -> None:
    assert public_api().splitlines() == LIST.read_text().splitlines(), (
        "if the change is meant: python tests/public_api.py"
    )
