"""`hbone expose`: let the mesh reach a local port under an identity."""

import os
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import ACCOUNT, EXPOSE_PORT, by_mesh_port
from hbone.cli.member import Member, member_options

if TYPE_CHECKING:
    from hbone.addr import SocketAddress
    from hbone.config.listen import TcpListen
    from hbone.config.refs import AccountRef


@click.command()
@click.argument("ports", metavar="[MESHPORT:][ADDR:]PORT…", nargs=-1, required=True, type=EXPOSE_PORT)
@click.option("--as", "account", required=True, metavar="NS/SA", type=ACCOUNT, help="The identity to be known by.")
@click.option("--allow", multiple=True, metavar="NS/SA", type=ACCOUNT, help="Only these may connect (repeatable).")
@click.option(
    "--require-rules",
    is_flag=True,
    envvar="HBONE_REQUIRE_RULES",
    help="Not without --allow or a policy that says who may connect.",
)
@click.option("--name", default="", metavar="HOST", help="The host name in the mesh [default: ACCOUNT.NAMESPACE…].")
@click.option(
    "--listen",
    metavar="ADDR:PORT",
    default="127.0.0.1:15008",
    show_default=True,
    help="With --ca: where tunnels arrive; port 0 for any free one.",
)
@member_options
def expose(  # noqa: PLR0917 - one parameter for each option
    ports: "tuple[tuple[int, SocketAddress], ...]",
    allow: "tuple[AccountRef, ...]",
    require_rules: bool,
    name: str,
    listen: str,
    member: Member,
) -> int:
    """The mesh reaches local PORT as ACCOUNT.NAMESPACE, through mutually authenticated tunnels and no other way.

    \b
    hbone expose --as shop/cart 8080
    hbone expose --as data/db --allow web/client 5432
    hbone expose --as shop/cart 80:127.0.0.1:3000
    """
    from hbone.app.programs import ExposeSpec, run_expose
    from hbone.app.run import run

    where = _listen(listen)
    spec = ExposeSpec(
        member=member.membership(),
        ports=by_mesh_port(ports),
        allow=allow,
        name=name,
        listen=where,
        require_rules=require_rules,
    )
    with member.logs() as logs:
        return run(lambda stop: run_expose(spec, member.place(dict(os.environ)), logs, stop, member.say))


def _listen(text: str) -> "TcpListen":
    from hbone.config.listen import InvalidListen, TcpListen, parse_listen

    try:
        listen = parse_listen(text)
    except InvalidListen as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    if not isinstance(listen, TcpListen):
        raise click.BadParameter(f"{text!r} is not ADDR:PORT; peers must reach it", param_hint="--listen")
    return listen
