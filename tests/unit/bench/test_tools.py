"""Tools by name."""

from pathlib import Path

from hbone.bench.tools import TOOLS, Tool


def test_a_missing_tool_says_how_to_install_it() -> None:
    tool = Tool("nosuch", "apt install nosuch", lambda: None, "-V")
    assert tool.missing() == "nosuch is not installed; apt install nosuch"
    assert tool.version() is None


def test_a_version_in_the_path_of_a_tool_is_not_taken_for_its_own(tmp_path: Path) -> None:
    directory = tmp_path / "v9.9"
    directory.mkdir()
    program = directory / "tool"
    program.write_text('#!/bin/sh\necho "$0 release 1.40.0/Clean"\n')
    program.chmod(0o700)
    assert Tool("tool", "", lambda: program, "-v").version() == "1.40.0"


def test_every_tool_names_the_package_that_brings_it() -> None:
    assert {tool.install.rpartition(" ")[0] for tool in TOOLS} == {"apt install", "pip install"}
