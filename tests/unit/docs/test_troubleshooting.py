"""The texts that troubleshooting explains are those that the program says."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "guide" / "troubleshooting.md"
SOURCE = "".join(path.read_text() for path in sorted((ROOT / "src" / "hbone").rglob("*.py")))
SYSTEM = {"Address already in use", "Permission denied", "Cannot assign requested address", "Connection refused"}
"""What the operating system says."""


def texts() -> list[str]:
    """What stands in backquotes in the first column of the tables."""
    cells = [row.split("|")[1] for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    cells = [cell.replace("`hbone up`", "HBONE_UP") for cell in cells]
    return [text.replace("HBONE_UP", "`hbone up`") for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("text", texts())
def test_a_text_that_is_explained_is_one_that_is_said(text: str) -> None:
    for part in text.split("…"):
        if part.strip() and text not in SYSTEM:
            assert part.strip() in SOURCE, part


def test_there_are_texts() -> None:
    assert len(texts()) > 50
