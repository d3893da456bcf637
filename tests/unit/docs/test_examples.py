"""What the pages show is what a reader gets."""

import shutil
from pathlib import Path

import pytest

from tests.unit.docs.examples import folded, follow, lacks, steps_of, typed_in, unlike

ROOT = Path(__file__).parents[3]
PAGES = [
    page
    for page in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
    if steps_of(page.name, page.read_text())
]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_of_a_page_do_what_it_shows(page: Path) -> None:
    text = page.read_text()
    if "$ curl" in text and shutil.which("curl") is None:
        pytest.skip("needs curl")
    follow(str(page.relative_to(ROOT)), text)


def test_the_first_pages_are_among_those_that_are_run() -> None:
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    assert {"README.md", "docs/guide/first-tunnel.md", "docs/guide/manifests.md"} <= names


def test_a_block_is_read_with_its_mark_and_commands_with_what_they_print() -> None:
    text = "a\n<!-- test: run -->\n```console\n$ one \\\n> two\nx\n$ three\n```\n<!-- test: defaults -->\n"
    block, mark = steps_of("page.md", text)
    assert block.mark == "run"
    assert [(one.command, one.shown) for one in typed_in(block.lines)] == [("one \\\ntwo", ("x",)), ("three", ())]
    assert (mark.mark, mark.lines, mark.place) == ("defaults", (), "page.md:9")


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("256 MiB in 0.29 s", "64 KiB in 12.5 s"),
        ("serial 201dd0c4aa", "serial 0000000001"),
        ("left  23h59m", "left 2d"),
        ("cart  10.0.0.1", "cart       10.255.0.77"),
    ],
)
def test_what_differs_from_run_to_run_is_not_compared(shown: str, printed: str) -> None:
    assert folded(shown) == folded(printed)


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        (("all 7 claims hold",), "all 7 claims hold\n", True),
        (("all 7 claims hold",), "1 claim failed\n", False),
        (("ok",), "ok\nand more\n", False),
        (("ok …",), "ok whatever\n", True),
        (("first", "…", "last"), "first\nx\ny\nlast\n", True),
        (("first", "…", "last"), "first\nx\ny\n", False),
        ((), "something\n", False),
    ],
)
def test_words_are_compared(shown: tuple[str, ...], printed: str, same: bool) -> None:
    assert (unlike(shown, printed) == "") is same


def test_of_a_command_that_stays_the_lines_must_come_in_order() -> None:
    assert lacks(("a", "c"), "a\nb\nc\n") == ""
    assert lacks(("c", "a"), "a\nb\nc\n") == "a"
