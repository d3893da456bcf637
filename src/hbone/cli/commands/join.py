"""`hbone join`: make this machine part of a mesh."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import EXPOSE_PORT, FORWARD, ForwardArgument, by_mesh_port

if TYPE_CHECKING:
    from hbone.addr import IpAddress, SocketAddress

TOKEN_VARIABLE = "HBONE_JOIN_TOKEN"  # noqa: S105  # a variable's name


@click.command()
@click.argument("token", required=False, default="")
@click.option(
    "--expose",
    "exposes",
    multiple=True,
    metavar="[MESHPORT:][ADDR:]PORT",
    type=EXPOSE_PORT,
    help="A port here that the mesh reaches by name (repeatable).",
)
@click.option(
    "--forward",
    "forwards",
    multiple=True,
    metavar="[ADDR:]PORT:HOST:PORT",
    type=FORWARD,
    help="A local port that leads to a mesh destination (repeatable).",
)
@click.option("--name", default="", metavar="HOST", help="The host name for --expose [default: ACCOUNT.NAMESPACE…].")
@click.option("--address", metavar="IP", help="Where the mesh reaches this machine [default: where it is seen from].")
@click.option("--config", type=click.Path(path_type=Path), help="Node settings (YAML), as `hbone node` takes them.")
@click.option("--inbound", metavar="ADDR:PORT", help="Where tunnels arrive [default: 0.0.0.0:15008]; off for none.")
@click.option("--socks", metavar="ADDR:PORT", help="SOCKS5 and HTTP CONNECT [default: 127.0.0.1:15080]; off for none.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Where the membership is kept, mode 0700.")
def join(
    *,
    token: str,
    exposes: "tuple[tuple[int, SocketAddress], ...]",
    forwards: tuple[ForwardArgument, ...],
    name: str,
    address: str | None,
    config: Path | None,
    state_dir: Path | None,
    **flags: str | None,
) -> int:
    """This machine joins the mesh that TOKEN is of, and works as a node of it. TOKEN is needed once.

    Other users of this machine can read arguments while the command runs: `-` reads the token from standard input,
    and HBONE_JOIN_TOKEN may hold it. Later starts need none; the certificate that was kept proves who this is.

    \b
    hbone join TOKEN
    hbone join - --expose 5432 < token
    hbone join
    """
    from hbone.app.join import JoinSpec, run_join, token_from
    from hbone.app.place import Place
    from hbone.app.run import run
    from hbone.cli.settings import node_flags, placed, settings_file
    from hbone.config.load import load_node
    from hbone.telemetry.log import Logs

    environment = dict(os.environ)
    loaded = load_node(settings_file(config), environment, node_flags(flags))
    spec = JoinSpec(
        token=token_from(token, sys.stdin.read, environment.pop(TOKEN_VARIABLE, None)),
        settings=loaded,
        exposes=by_mesh_port(exposes),
        forwards=tuple((one.listen, one.target) for one in forwards),
        address=_ip(address),
        host=name,
    )
    os.environ.pop(TOKEN_VARIABLE, None)
    logs = Logs(loaded.settings.logging)
    try:
        with placed(loaded):
            place = Place(environment=environment, state_dir=state_dir)
            return run(lambda stop: run_join(spec, place, logs, stop, _say))
    finally:
        logs.close()


def _ip(text: str | None) -> "IpAddress | None":
    from hbone.addr import InvalidAddress, parse_ip

    try:
        return parse_ip(text) if text is not None else None
    except InvalidAddress as error:
        raise click.BadParameter(str(error), param_hint="--address") from error


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
