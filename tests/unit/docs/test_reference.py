"""The generated pages, and links between all pages."""

import re
from pathlib import Path

import pytest

from tools.reference import DIRECTORY, pages

ROOT = Path(__file__).parents[3]
MARKDOWN = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md"), *ROOT.glob("bench/*.md")]
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def test_the_reference_is_what_the_tables_say_now() -> None:
    written = {path.name: path.read_text() for path in DIRECTORY.glob("*.md")}
    fresh = pages()
    stale = sorted(name for name in {*written, *fresh} if written.get(name) != fresh.get(name))
    assert not stale, f"run `make docs`: {', '.join(stale)} differ"


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        goal = (page.parent / path).resolve() if path else page
        assert goal.exists(), f"{target} in {page.name}"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal.read_text()), f"{target} in {page.name}"


def anchors(text: str) -> set[str]:
    """The anchors that headings get: lower case, blanks to hyphens, punctuation dropped."""
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
