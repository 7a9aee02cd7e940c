"""Fixtures that several test files share."""

from collections.abc import Iterator

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def processes() -> Iterator[Processes]:
    """Return four processes of one group, started at the first test that asks for them."""
    running = Processes()
    yield running
    running.close()
