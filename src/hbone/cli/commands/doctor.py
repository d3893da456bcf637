"""`hbone doctor`: what on this machine would keep hbone from working, and the fix for each."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import PATH
from hbone.cli.output import Format, Style, emit, output_option, styled

if TYPE_CHECKING:
    from hbone.cli.checks.finding import Check, Finding

_TITLES = {"ok": ("ok", Style.GOOD), "warn": ("warn", Style.WARNING), "fail": ("FAIL", Style.BAD)}


@click.command()
@click.option(
    "--state-dir",
    type=PATH,
    help="Look at this state directory.  [default: $XDG_STATE_HOME/hbone, /var/lib/hbone for root]",
)
@output_option
def doctor(state_dir: Path | None, output: Format) -> None:
    """Say what on this machine would keep hbone from working, and the fix for each.

    Nothing is changed. `warn`: hbone works, but something is missing or could be better here. `fail`: it would not
    work; then the exit code is 1.
    """
    if not answer([finding for check in _checks(state_dir) for finding in check()], output):
        sys.exit(1)


def answer(findings: "list[Finding]", output: Format) -> bool:
    """Print the findings; whether hbone would work."""
    failed = any(finding.status.value == "fail" for finding in findings)
    value = {"ok": not failed, "checks": [finding.as_json() for finding in findings]}
    emit(output, value, lambda: "\n".join(_text(findings)))
    return not failed


def _checks(state_dir: Path | None) -> "tuple[Check, ...]":
    from hbone.cli.checks import machine, network, software
    from hbone.config.places import state_dir as default

    directory = default(os.environ, uid=os.geteuid(), given=state_dir)
    return (
        software.python,
        software.tls,
        software.fast_tls,
        software.event_loop,
        software.aes,
        machine.clock,
        machine.open_files,
        network.loopback,
        network.ipv6,
        network.ports,
        network.privileged_ports,
        machine.user_namespaces,
        machine.tools,
        lambda: machine.state(directory),
        lambda: machine.running_control_plane(directory),
    )


def _text(findings: "list[Finding]") -> Iterator[str]:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        word, style = _TITLES[finding.status.value]
        aside = f"; {finding.means}" if finding.status.value == "ok" and finding.means else ""
        yield f"{styled(word.ljust(4), style, sys.stdout)}  {finding.name.ljust(width)}  {finding.found}{aside}"
        if finding.status.value != "ok":
            yield f"{' ' * (width + 8)}{finding.means}"
            yield f"{' ' * (width + 8)}fix: {finding.fix}"
    counts = {status: sum(finding.status.value == status for finding in findings) for status in ("fail", "warn")}
    yield ""
    if counts["fail"]:
        yield f"{counts['fail']} to fix before hbone works here, {counts['warn']} to know about."
    else:
        aside = f"; {counts['warn']} to know about" if counts["warn"] else ""
        yield f"hbone works here{aside}."
