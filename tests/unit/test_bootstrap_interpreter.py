"""Which Python the development environment is made of: tools/bootstrap.py."""

import sys
from pathlib import Path

import pytest

from tools import bootstrap


@pytest.fixture(autouse=True)
def nothing_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))


def python(path: Path, *, new: bool = True, good: bool, whole: bool = True) -> str:
    """An interpreter that answers what it is asked: is it new enough, slow, and has it all that is needed."""
    answers = f"*version_info*) exit {int(not new)};; *CONFIG_ARGS*) exit {int(good)};; *) exit {int(not whole)};;"
    path.write_text(f'#!/bin/sh\ncase "$2" in {answers} esac\n')
    path.chmod(0o755)
    return str(path)


def running(path: Path, monkeypatch: pytest.MonkeyPatch, *, good: bool) -> str:
    found = python(path, good=good)
    monkeypatch.setattr(sys, "executable", found)
    return found


def test_the_one_that_runs_is_used_when_nothing_is_wrong_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python(tmp_path / "python3.14", good=True)
    ours = running(tmp_path / "python3", monkeypatch, good=True)
    assert bootstrap.interpreter() == ours


def test_one_built_without_optimizations_gives_way_to_a_better_one_and_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = running(tmp_path / "python3", monkeypatch, good=False)
    python(tmp_path / "python3.14", good=False)
    python(tmp_path / "python3.13", good=True, new=False)
    better = python(tmp_path / "python3.12", good=True)
    assert bootstrap.interpreter() == better
    said = capsys.readouterr().err
    assert slow in said
    assert better in said
    assert "PYTHON=" in said


def test_python_in_the_environment_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = running(tmp_path / "python3", monkeypatch, good=False)
    python(tmp_path / "python3.12", good=True)
    monkeypatch.setenv("PYTHON", slow)
    assert bootstrap.interpreter() == slow


def test_the_slow_one_is_used_where_there_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = running(tmp_path / "python3", monkeypatch, good=False)
    python(tmp_path / "python3.12", good=False)
    assert bootstrap.interpreter() == slow


def test_one_without_headers_is_no_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = running(tmp_path / "python3", monkeypatch, good=False)
    python(tmp_path / "python3.12", good=True, whole=False)
    assert bootstrap.interpreter() == slow


def test_a_fast_one_without_headers_is_used_and_not_called_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = python(tmp_path / "python3", good=True, whole=False)
    monkeypatch.setattr(sys, "executable", bare)
    python(tmp_path / "python3.12", good=True)
    assert bootstrap.interpreter() == bare
    assert not capsys.readouterr().err
