"""What the tests of real commands share: a place of their own to run them in."""

from collections.abc import Iterator

import pytest

from tests.support.commands import Sandbox


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as made:
        yield made
