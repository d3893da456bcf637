"""Every failure becomes lines of text with a fix, and the right exit code."""

import errno
import os
import subprocess
import sys

import click
import pytest

from hbone.cli import failures
from hbone.cli.failures import main, printable, report
from hbone.errors import HboneError, InvalidConfiguration, PolicyDenied, Problem, Unreachable, UsageError

PROBLEM = Problem(what="no such setting", fix="write socks", field="listeners.sokcs", file="node.yaml", line=3)


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            UsageError("'x' is not a port", why="it is a letter", fix="write a number"),
            2,
            ["error: 'x' is not a port: it is a letter", "  fix: write a number"],
        ),
        (PolicyDenied("denied"), 1, ["error: denied"]),
        (Unreachable("no answer"), 3, ["error: no answer"]),
        (
            InvalidConfiguration([PROBLEM, Problem(what="b", fix="c")]),
            2,
            ["error: node.yaml:3: listeners.sokcs: no such setting; write socks", "error: b; c"],
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "mesh.yaml"),
            2,
            ["error: mesh.yaml: no such file or directory", "  fix: check the path"],
        ),
        (PermissionError(errno.EACCES, "Permission denied", b"/etc/x"), 2, ["error: /etc/x: permission denied", None]),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, ["error: address already in use", None]),
        (OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address"), 2, [None, None]),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), 3, ["error: connection refused", None]),
        (TimeoutError(errno.ETIMEDOUT, "Connection timed out"), 3, [None, None]),
        (OSError(errno.ENOSPC, "No space left on device"), 1, [None, None]),
        (OSError(errno.EIO, "Input/output error"), 1, ["error: input/output error"]),
        (OSError("something"), 1, ["error: something"]),
        (TimeoutError(), 1, ["error: timeouterror"]),
        (KeyboardInterrupt(), 130, []),
        (click.Abort(), 130, []),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 0, []),
        (
            click.UsageError("No such option: --x."),
            2,
            ["error: no such option: --x", "  fix: add --help to see the usage"],
        ),
        (click.FileError("x", "No such file"), 2, [None]),
        (click.exceptions.Exit(7), 7, []),
    ],
)
def test_a_foreseen_failure_is_told_in_lines(
    error: BaseException, code: int, lines: list[str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(error, {}) == code
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(lines)
    assert all(expected is None or line == expected for line, expected in zip(told, lines, strict=True))


def test_an_unforeseen_failure_is_one_line_that_asks_for_a_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(KeyError("x"), {}) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: internal error, KeyError: 'x'\n  fix: please report it")
    assert "Traceback" not in told


def test_its_traceback_is_shown_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        report(error, {"HBONE_DEBUG": "1"})
    assert "Traceback" in capsys.readouterr().err


def test_tasks_that_failed_together_are_told_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    group = BaseExceptionGroup("", [UsageError("a"), ExceptionGroup("", [UsageError("a"), Unreachable("b")])])
    assert report(group, {}) == 3
    assert capsys.readouterr().err.splitlines() == ["error: a", "error: b"]


def test_an_interrupt_among_tasks_is_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(BaseExceptionGroup("", [UsageError("a"), KeyboardInterrupt()]), {}) == 130
    assert capsys.readouterr().err == ""


def test_the_unforeseen_one_among_tasks_is_the_one_reported(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("", [UsageError("a"), ExceptionGroup("", [HboneError("b"), KeyError("x")])])
    assert report(group, {}) == 1
    assert "internal error, KeyError" in capsys.readouterr().err


def test_what_a_peer_said_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    report(UsageError("peer said \x1b[2J", fix="\x07"), {})
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "\x07" not in told
    assert printable("a\nb\x00") == "a\nb\\x00"


def test_the_codes_are_those_that_the_documentation_promises() -> None:
    assert (failures.DONE, failures.NO, failures.USAGE, failures.UNREACHABLE, failures.INTERRUPTED) == (0, 1, 2, 3, 130)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--version"], 0), (["--help"], 0), ([], 2), (["schema"], 2), (["schema", "node"], 0), (["schema", "--nope"], 2)],
    ids=str,
)
def test_the_command_line_returns_its_exit_code(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments, {}) == code
    assert "Traceback" not in capsys.readouterr().err


def test_a_reader_that_has_enough_is_no_failure() -> None:
    """As in `hbone schema node | head -1`, with a pipe that is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "hbone", "schema", "node"], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {}) == 2
    assert capsys.readouterr().err.startswith("Usage: hbone ")


def test_the_exit_of_a_command_passes_through() -> None:
    done = subprocess.run([sys.executable, "-m", "hbone", "--help"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_completion_answers_the_shell() -> None:
    environment = {**os.environ, "_HBONE_COMPLETE": "bash_complete", "COMP_WORDS": "hbone do", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-m", "hbone"], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout) == (0, "plain,doctor\n")
