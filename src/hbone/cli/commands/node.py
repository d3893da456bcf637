"""`hbone node`: the node proxy alone."""

import os
from pathlib import Path

import click

from hbone.cli.arguments import PATH


@click.command()
@click.option("--config", "config", type=PATH, help="Settings file (YAML).")
@click.option("--workload", metavar="NS[/NAME]/SA", help="Work for this one workload (dedicated mode).")
@click.option("--manifests", metavar="DIR", help="Directory of manifests.")
@click.option("--local-xds", metavar="FILE", help="ztunnel's local file of workloads and services.")
@click.option("--ca", metavar="DIR", help="Issue certificates from this CA directory.")
@click.option("--inbound", metavar="ADDR:PORT", help="Where HBONE tunnels arrive.")
@click.option("--socks", metavar="ADDR:PORT", help="Where programs connect by SOCKS5 or HTTP CONNECT.")
@click.option("--workers", metavar="N|auto", help="Processes that share the work; auto: one for each core.")
@click.option("--worker", type=int, hidden=True, help="Be a worker of the agent at the other end of this descriptor.")
@click.option("--state-dir", type=PATH, help="Where `hbone up` keeps its socket.")
@click.option("--print-config", is_flag=True, help="Print every setting, its value and origin, and end.")
@click.option("--check", is_flag=True, help="Read and judge the settings and files, and end.")
def node(
    config: Path | None,
    state_dir: Path | None,
    worker: int | None,
    *,
    print_config: bool,
    check: bool,
    **flags: str | None,
) -> int:
    """The node proxy alone: tunnels in, tunnels out, as its settings say.

    Every setting is also an environment variable (HBONE_…; ztunnel's names are honoured); flags win over
    variables, variables over the file.
    """
    if worker is not None:
        return _work(worker)
    from hbone.cli.settings import node_flags, placed, settings_file
    from hbone.config.load import load_node

    loaded = load_node(settings_file(config), dict(os.environ), node_flags(flags))
    if print_config:
        from hbone.config.show import show

        click.echo(show(loaded), nl=False)
        return 0
    from hbone.app.place import Place
    from hbone.app.run import run
    from hbone.app.workers.choice import runner_for
    from hbone.telemetry.log import Logs

    place = Place(environment=dict(os.environ), state_dir=state_dir)
    if check:
        from hbone.app.check import check_node

        check_node(loaded.settings, place)
        click.echo("the settings and all files they name are good")
        return 0
    logs = Logs(loaded.settings.logging)
    try:
        with placed(loaded):
            run_it = runner_for(loaded.settings)
            return run(lambda stop: run_it(loaded.settings, place, logs, stop))
    finally:
        logs.close()


def _work(descriptor: int) -> int:
    """One of the processes of a node, which its agent starts."""
    from hbone.app.run import run
    from hbone.app.workers.worker import Worker
    from hbone.telemetry.log import Logs

    worker = Worker(descriptor)
    logs = Logs(worker.settings.logging)
    try:
        worker.log_to(logs)
        return run(worker.run)
    finally:
        logs.close()
