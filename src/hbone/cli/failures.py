"""What a failed command says and exits with: the only place that turns exceptions into text.

    0 done · 1 it ran and the answer is no · 2 wrong usage or configuration · 3 not reachable · 130 interrupted

A user never sees a traceback, unless HBONE_DEBUG asks for the one of an internal error.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO, cast

import click

from hbone.errors import HboneError, InvalidConfiguration, Problem
from hbone.values import dataclass

DONE, NO, USAGE, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130
DEBUG_VARIABLE: Final = "HBONE_DEBUG"
MAX_PROBLEMS: Final = 50
_ANY_TEXT: Final = ("utf-8", "surrogateescape")
COMPLETE_VARIABLE: Final = "_HBONE_COMPLETE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What to print on standard error, one mistake a line, and the exit code."""

    lines: tuple[str, ...] = ()
    exit_code: int


@dataclass(frozen=True, slots=True)
class _System:
    """An error of the operating system: what to do about it, and our exit code."""

    fix: str
    exit_code: int = NO


_SYSTEM: Final = {
    errno.EADDRINUSE: _System("choose another port, or stop what holds it: `hbone doctor` names it", USAGE),
    errno.EADDRNOTAVAIL: _System("use an address of this machine, 127.0.0.1 or 0.0.0.0", USAGE),
    errno.EACCES: _System("use a path you may read and write; ports below 1024 need more rights", USAGE),
    errno.EPERM: _System("it needs more rights than this user has", USAGE),
    errno.ENOENT: _System("check the path", USAGE),
    errno.EISDIR: _System("name a file, not a directory", USAGE),
    errno.ENOTDIR: _System("name a directory, not a file", USAGE),
    errno.EEXIST: _System("choose another name, or remove what is there", USAGE),
    errno.ENAMETOOLONG: _System("choose a shorter path", USAGE),
    errno.EROFS: _System("choose a place that can be written", USAGE),
    errno.ENOSPC: _System("make room on that disk"),
    errno.EDQUOT: _System("make room within your quota"),
    errno.EMFILE: _System("raise the limit of open files (ulimit -n 65536)"),
    errno.ENFILE: _System("the machine is out of file descriptors: close something"),
    errno.ECONNREFUSED: _System("check that it is running and listens there", UNREACHABLE),
    errno.ECONNRESET: _System("look into its log", UNREACHABLE),
    errno.ETIMEDOUT: _System("check the address, and firewalls on the way", UNREACHABLE),
    errno.EHOSTUNREACH: _System("check the address and the route to it", UNREACHABLE),
    errno.ENETUNREACH: _System("check the address and the route to it", UNREACHABLE),
}
_OTHER: Final = _System("")


def main(arguments: list[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Run the command line; the exit code. `arguments` None: those of the process."""
    _fill_standard_streams()
    _print_what_the_encoding_has()
    from hbone.cli.main import cli

    try:
        if COMPLETE_VARIABLE in environment:
            cli.main(args=[], prog_name="hbone", complete_var=COMPLETE_VARIABLE)
        # Not click's main: that turns a closed pipe into exit 1.
        with cli.make_context("hbone", list(sys.argv[1:] if arguments is None else arguments)) as context:
            code: object = cli.invoke(context)
        sys.stdout.flush()
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        return report(error, environment)
    return code if isinstance(code, int) else DONE  # what a command returns is its exit code


def _fill_standard_streams() -> None:
    """A caller may have closed them (`hbone … <&- >&-`). What is opened next would get their descriptors: a socket of
    ours, and a stray line would be written to it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115 -- for life


def _print_what_the_encoding_has() -> None:
    """An arrow that a terminal's ISO 8859-1 lacks is a question mark there, and no reason to fail. Standard error does
    so by itself."""
    out: TextIO = sys.stdout
    if isinstance(out, io.TextIOWrapper) and (out.encoding.lower(), out.errors) != _ANY_TEXT:
        out.reconfigure(errors="replace")


def report(error: BaseException, environment: Mapping[str, str]) -> int:
    """Print what `error` means to the user; the exit code."""
    failure = failure_of(error)
    if failure is None:
        failure = _internal(error, environment)
    try:
        # An interrupted or piped command may have left half a line; standard output is no longer ours to complain on.
        for line in failure.lines:
            click.echo(line, err=True)
    except OSError:
        pass
    if _takes_no_more(error):
        _silence_stdout()
    return failure.exit_code


def failure_of(error: BaseException) -> Failure | None:
    """What a foreseen error says; None for one that nobody foresaw."""
    match error:
        case BaseExceptionGroup():
            return _of_group(error)
        case KeyboardInterrupt() | click.Abort():
            return Failure(exit_code=INTERRUPTED)
        case BrokenPipeError() if error.filename is None:
            return Failure(exit_code=DONE)  # the reader had enough (`hbone get … | head`)
        case InvalidConfiguration():
            return Failure(lines=(*_of_problems(error.problems),), exit_code=error.exit_code)
        case HboneError():
            return Failure(lines=(*_of_hbone(error),), exit_code=error.exit_code)
        case click.exceptions.NoArgsIsHelpError():
            return Failure(lines=(error.format_message(),), exit_code=USAGE)
        case click.exceptions.Exit():
            return Failure(exit_code=error.exit_code)
        case click.ClickException():
            return Failure(lines=(*_of_click(error),), exit_code=USAGE)
        case OSError():
            return _of_system(error)
        case _:
            return None


def _of_problems(problems: Sequence[Problem]) -> Iterator[str]:
    """A mistake that was made everywhere need not be read everywhere."""
    yield from (_line(str(problem)) for problem in problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        yield _line(f"and {len(problems) - MAX_PROBLEMS} more like these")


def _of_hbone(error: HboneError) -> Iterator[str]:
    yield _line(f"{error.what}: {error.why}" if error.why else error.what)
    if error.fix:
        yield f"  fix: {printable(error.fix)}"


def _of_click(error: click.ClickException) -> Iterator[str]:
    message = " ".join(error.format_message().split()).rstrip(".")  # choices come one a line
    yield _line(message[:1].lower() + message[1:])
    if isinstance(error, click.UsageError):
        shown = f"`{error.ctx.command_path} --help` shows" if error.ctx is not None else "add --help to see"
        yield f"  fix: {shown} the usage"


def _of_system(error: OSError) -> Failure:
    known = _SYSTEM.get(error.errno or 0, _OTHER)
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    subject = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    lines = (_line(f"{subject}{reason}"), *([f"  fix: {known.fix}"] if known.fix else []))
    return Failure(lines=lines, exit_code=known.exit_code)


def _of_group(group: BaseExceptionGroup[BaseException]) -> Failure | None:
    """Tasks fail together: say each thing once; the worst exit code. None if one of them was not foreseen."""
    lines: dict[str, None] = {}
    codes: list[int] = []
    for error in group.exceptions:
        failure = failure_of(error)
        if failure is None:
            return None
        lines.update(dict.fromkeys(failure.lines))
        codes.append(failure.exit_code)
    if INTERRUPTED in codes:
        return Failure(exit_code=INTERRUPTED)
    return Failure(lines=tuple(lines), exit_code=max(codes))


def _internal(error: BaseException, environment: Mapping[str, str]) -> Failure:
    error = _unforeseen(error)
    if environment.get(DEBUG_VARIABLE):
        import traceback

        click.echo("".join(traceback.format_exception(error)).rstrip(), err=True)
    text = str(error).partition("\n")[0][:300]
    kind = type(error).__name__
    return Failure(
        lines=(
            _line(f"internal error, {kind}: {text}" if text else f"internal error, {kind}"),
            f"  fix: please report it, with the details that {DEBUG_VARIABLE}=1 shows",
        ),
        exit_code=NO,
    )


def _unforeseen(error: BaseException) -> BaseException:
    """The first error inside `error` that nobody foresaw."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    group = cast("BaseExceptionGroup[BaseException]", error)
    return _unforeseen(next(inner for inner in group.exceptions if failure_of(inner) is None))


def _line(text: str) -> str:
    from hbone.cli.output import Style, styled

    return f"{styled('error:', Style.BAD, sys.stderr)} {printable(text)}"


def printable(text: str) -> str:
    """`text` without what a peer could use to write elsewhere on the terminal; line breaks stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text)


def _takes_no_more(error: BaseException) -> bool:
    """Whether standard output may be what failed: a closed pipe, a full disk."""
    return isinstance(error, OSError) and error.errno in {errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EIO}


def _silence_stdout() -> None:
    """What is still buffered for it must not make the interpreter complain at its end."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        pass
