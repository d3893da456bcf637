"""`hbone up`: one machine, one command."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import PATH

if TYPE_CHECKING:
    from hbone.app.place import Place
    from hbone.config.load import Loaded
    from hbone.config.model import ControlSettings, NodeSettings


@click.command()
@click.argument("directory", required=False, type=PATH)
@click.option("--as", "account", metavar="NS/SA", help="Programs on this machine speak as this one identity.")
@click.option("--config", type=PATH, help="Node settings (YAML), as `hbone node` takes them.")
@click.option("--trust-domain", metavar="NAME", help="Trust domain of the mesh [default: cluster.local].")
@click.option("--ca", metavar="DIR", help="Issue from this CA instead of one made in the state directory.")
@click.option("--inbound", metavar="ADDR:PORT", help="Where tunnels arrive [default: 0.0.0.0:15008]; off for none.")
@click.option("--socks", metavar="ADDR:PORT", help="SOCKS5 and HTTP CONNECT [default: 127.0.0.1:15080]; off for none.")
@click.option("--control-listen", metavar="ADDR:PORT", help="Let other machines join, by TLS; 0.0.0.0:15012 by custom.")
@click.option("--advertise", metavar="HOST:PORT", help="Where they reach it, if not by that listener's address.")
@click.option("--control-config", type=PATH, help="Control plane settings (YAML).")
@click.option("--state-dir", type=PATH, help="Where the CA, the journal and the socket are kept.")
def up(
    directory: Path | None,
    account: str | None,
    config: Path | None,
    control_config: Path | None,
    state_dir: Path | None,
    **flags: str | None,
) -> int:
    """Control plane and node on this machine: identities, discovery and tunnels from one command.

    DIRECTORY holds manifests (WorkloadEntry, ServiceEntry, Service …), read again whenever they change. Beside a
    running `hbone up`, `hbone expose` and `hbone forward` join its mesh without any further set-up.
    """
    from hbone.app.place import Place
    from hbone.app.run import run
    from hbone.app.up import UpSettings, run_up
    from hbone.cli.settings import control_file, control_flags, node_flags, placed, settings_file
    from hbone.config.load import load_control, load_node
    from hbone.telemetry.log import Logs

    environment = dict(os.environ)
    given = {name: flags[name] for name in ("trust_domain", "ca", "control_listen", "advertise")}
    manifests = str(directory) if directory is not None else None
    control_given = control_flags({**given, "manifests": manifests, "state_dir": state_dir})

    def load() -> "Loaded[ControlSettings]":
        return load_control(settings_file(control_config), environment, control_given)

    control = load()
    node_given: dict[str, object] = {"trust_domain": flags["trust_domain"], "workload": account}
    node_given |= {"inbound": flags["inbound"], "socks": flags["socks"]}
    node = load_node(settings_file(config), environment, node_flags(node_given, spelling={"workload": "--as"}))
    place = Place(environment=environment, state_dir=state_dir)
    logs = Logs(node.settings.logging)
    try:
        file = control_file(control_config, load)
        settings = UpSettings(control=control.settings, node=_with_window(node, place), control_file=file)
        with placed(control), placed(node):
            return run(lambda stop: run_up(settings, place, logs, stop, say=_say))
    finally:
        logs.close()


def _with_window(node: "Loaded[NodeSettings]", place: "Place") -> "NodeSettings":
    """The operator's window is in the state directory, unless somebody chose a place: there only its owner looks in,
    and `hbone get` finds the one of each mesh on this machine."""
    from hbone.admin.client import admin_socket
    from hbone.config.listen import UnixListen
    from hbone.config.load import OriginKind

    if node.origin("listeners.admin").kind is not OriginKind.DEFAULT:
        return node.settings
    window = UnixListen(str(admin_socket(place.state).absolute()))
    listeners = node.settings.listeners.model_copy(update={"admin": window})
    return node.settings.model_copy(update={"listeners": listeners})


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
