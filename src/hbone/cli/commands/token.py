"""`hbone token`: join tokens."""

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hbone.cli.administration import moment, state_dir_option
from hbone.cli.arguments import ACCOUNT, GROUP
from hbone.cli.output import Format, emit, output_option, table

if TYPE_CHECKING:
    from hbone.app.tokens import Desk
    from hbone.config.refs import AccountRef, WorkloadRef
    from hbone.proto.tokens_pb2 import TokenView

T = TypeVar("T")


@click.group()
def token() -> None:
    """Join tokens: each lets one machine into the mesh, once, as what it is made for."""


@token.command()
@click.option("--as", "account", metavar="NS/SA", type=ACCOUNT, help="The machine is this one workload.")
@click.option("--group", metavar="NS/NAME", type=GROUP, help="The machine is a member of this WorkloadGroup.")
@click.option("--node", metavar="NAME", help="The machine is a node: it has the identities of workloads placed on it.")
@click.option("--ttl", default="10m", show_default=True, help="How long it may be used: 90s, 10m, 24h.")
@click.option("--address", default="", metavar="HOST:PORT", help="Where the machine reaches the control plane.")
@state_dir_option
def create(  # noqa: PLR0917 - one parameter for each option
    account: "AccountRef | None",
    group: "WorkloadRef | None",
    node: str | None,
    ttl: str,
    address: str,
    state_dir: Path | None,
) -> None:
    """Print a token for `hbone join`. Whoever has it can join: hand it over as you would a password.

    \b
    hbone token create --as shop/cart
    hbone token create --group shop/cart-vms
    hbone token create --node vm-7 --ttl 1h
    """
    if [account, group, node].count(None) != 2:
        raise click.UsageError(
            "say what the machine is: --as NAMESPACE/ACCOUNT, --group NAMESPACE/NAME, or --node NAME"
        )
    from hbone.app.tokens import Wanted
    from hbone.config.units import parse_duration

    wanted = Wanted(account=account, group=group, node=node or "", ttl_s=parse_duration(ttl), address=address)
    created = _ask(state_dir, lambda desk: desk.create(wanted))
    click.echo(created.token)
    what = f"{created.view.spiffe_id}, once, until {moment(created.view.expires_at)}"
    if sys.stdout.isatty() or sys.stderr.isatty():
        click.echo(f"for {what}; on the machine: hbone join TOKEN", err=True)


@token.command("list")
@state_dir_option
@output_option
def list_(state_dir: Path | None, output: Format) -> None:
    """Tokens that are open, or ended within the last day. Their secrets are kept nowhere."""
    found = _ask(state_dir, lambda desk: desk.all())
    rows = [(one.id, one.spiffe_id, one.state, moment(one.expires_at), one.creator) for one in found]
    columns = ("id", "identity", "state", "until", "created by")
    emit(output, [_json(one) for one in found], lambda: table(columns, rows))


@token.command()
@click.argument("token_id", metavar="ID")
@state_dir_option
def revoke(token_id: str, state_dir: Path | None) -> int:
    """Make a token worthless. What joined with it stays: `hbone cert revoke` ends that."""
    if _ask(state_dir, lambda desk: desk.revoke(token_id)):
        click.echo(f"token {token_id} is revoked")
        return 0
    click.echo(f"there is no token {token_id}; `hbone token list` shows them", err=True)
    return 1


def _ask(state_dir: Path | None, question: "Callable[[Desk], Coroutine[Any, Any, T]]") -> T:
    import asyncio

    from hbone.app.place import Place
    from hbone.app.tokens import desk

    return asyncio.run(question(desk(Place(environment=dict(os.environ), state_dir=state_dir))))


def _json(one: "TokenView") -> dict[str, str | None]:
    return {
        "id": one.id,
        "spiffe_id": one.spiffe_id,
        "state": one.state,
        "created_at": moment(one.created_at),
        "expires_at": moment(one.expires_at),
        "used_at": moment(one.used_at) if one.used_at else None,
        "creator": one.creator,
    }
