"""`hbone bench`: measure hbone beside Envoy and beside no proxy at all, on this machine."""

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import click

QUICK_SECONDS, QUICK_WARMUP_S, QUICK_ROUNDS = 1, 0, 2
SECONDS, WARMUP_S, ROUNDS = 2, 1, 5
CANDIDATES = "direct,envoy,envoy-1,hbone"
KEPT_IN = Path("bench/results")


def _names(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",") if name.strip()) if value else ()


@click.command()
@click.option("--only", callback=_names, metavar="NAMES", help="Workloads or families: bulk1,keepalive32,idle …")
@click.option(
    "--candidates", callback=_names, default=CANDIDATES, show_default=True, metavar="NAMES", help="What to compare."
)
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"Interleaved rounds.  [default: {ROUNDS}]")
@click.option("--seconds", type=click.IntRange(1, 600), help=f"Length of one sample.  [default: {SECONDS}]")
@click.option("--quick", is_flag=True, help="A smoke run of less than a minute: does it work, is anything absurd?")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help=f"Where JSON and picture are kept.  [default: {KEPT_IN}; nowhere with --quick]",
)
@click.option("-o", "output", type=click.Choice(["table", "json"]), default="table", help="What to print.")
@click.option("--list", "list_only", is_flag=True, help="List the workloads and candidates, and what is missing.")
def bench(  # noqa: PLR0917 - one parameter for each option
    only: tuple[str, ...],
    candidates: tuple[str, ...],
    rounds: int | None,
    seconds: int | None,
    quick: bool,
    results: Path | None,
    output: str,
    list_only: bool,
) -> None:
    """Measure hbone beside Envoy, and both beside no proxy.

    Starts real servers, load tools and proxies on loopback addresses, alternates between the candidates in
    short samples, and prints medians and the ratios of single rounds. What is not installed is named and left out.
    """
    from hbone.bench.figures import Slice
    from hbone.bench.report import report
    from hbone.bench.session import Request, keep, measure
    from hbone.bench.workloads.catalogue import CATALOGUE, QUICK

    if list_only:
        _list()
        return
    request = Request(
        workloads=only or (QUICK if quick else tuple(CATALOGUE)),
        candidates=candidates,
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        part=Slice(
            seconds=seconds or (QUICK_SECONDS if quick else SECONDS), warmup_s=QUICK_WARMUP_S if quick else WARMUP_S
        ),
    )
    signal.signal(signal.SIGTERM, _interrupt)
    found = measure(request, lambda line: click.echo(line, err=True))
    click.echo(json.dumps(found.as_json(), indent=1) if output == "json" else report(found))
    if found.interrupted:
        sys.exit(130)
    if results or not quick:
        for path in keep(found, results or KEPT_IN):
            click.echo(f"kept: {path}", err=True)
    if found.failures:
        sys.exit(1)


def _list() -> None:
    from hbone.bench.candidates import CANDIDATES as ALL
    from hbone.bench.workloads.catalogue import CATALOGUE

    click.echo("Workloads")
    for workload in CATALOGUE.values():
        lacking = "; ".join(reason for tool in workload.tools if (reason := tool.missing()))
        click.echo(f"  {workload.key:22}{workload.title}{f'  ({lacking})' if lacking else ''}")
    click.echo("Candidates")
    for candidate in ALL.values():
        why = candidate.missing()
        click.echo(f"  {candidate.key:22}{candidate.title}{f'  ({why})' if why else ''}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """A SIGTERM leaves as Ctrl-C does: by way of the code that ends our processes."""
    raise KeyboardInterrupt
