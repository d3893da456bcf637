"""`hbone forward`: a local port that leads to a mesh destination."""

import os

import click

from hbone.cli.arguments import ACCOUNT, FORWARD, ForwardArgument
from hbone.cli.member import Member, member_options


@click.command()
@click.argument("forwards", metavar="[ADDR:]PORT:HOST:PORT…", nargs=-1, required=True, type=FORWARD)
@click.option("--as", "account", required=True, metavar="NS/SA", type=ACCOUNT, help="The identity to connect as.")
@member_options
def forward(forwards: tuple[ForwardArgument, ...], member: Member) -> int:
    """Connections to local PORT go to HOST:PORT in the mesh, in a mutually authenticated tunnel.

    \b
    hbone forward --as web/client 9000:cart.shop:8080
    hbone forward --as web/client 127.0.0.1:5432:db.data:5432 8080:10.1.0.7:8080
    """
    from hbone.app.programs import ForwardSpec, run_forward
    from hbone.app.run import run

    spec = ForwardSpec(member=member.membership(), forwards=tuple((one.listen, one.target) for one in forwards))
    with member.logs() as logs:
        return run(lambda stop: run_forward(spec, member.place(dict(os.environ)), logs, stop, member.say))
