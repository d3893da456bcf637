"""`hbone cert list`, `revoke` and `restore`: the certificates that a CA has issued. Part of `hbone cert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbone.cli.administration import as_json, gathered, moment, operate, state_dir_option
from hbone.cli.output import Format, emit, output_option, table

if TYPE_CHECKING:
    from hbone.proto.admin_pb2 import RevokeResponse

REASONS = (
    "unspecified",
    "keyCompromise",
    "affiliationChanged",
    "superseded",
    "cessationOfOperation",
    "privilegeWithdrawn",
)


@click.command("list")
@click.option("--as", "wanted", metavar="ID", default="", help="Of this identity only: NS/SA, or spiffe://…")
@click.option("--revoked", is_flag=True, help="Only those that are revoked.")
@click.option("--all", "ended", is_flag=True, help="Also those that have ended (kept for a week).")
@click.option("--limit", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many.")
@state_dir_option
@output_option
def list_(*, wanted: str, revoked: bool, ended: bool, limit: int, state_dir: Path | None, output: Format) -> None:
    """The certificates that this CA has issued, the newest first.

    `superseded`: the same client has taken a later one; it is still good until it ends or is revoked.
    """
    from hbone.proto.admin_pb2 import ListCertificatesRequest

    async def find(operations: Any, _: bool) -> list[Any]:
        spiffe_id = await _spiffe_id(operations, wanted) if wanted else ""
        request = ListCertificatesRequest(spiffe_id=spiffe_id, revoked_only=revoked, include_ended=ended, limit=limit)
        return await gathered(operations.certificates(request))

    found = [one for page in operate(state_dir, find) for one in page.certificates]
    rows = [
        (one.serial, one.spiffe_id, one.state, one.reason, moment(one.issued_at), moment(one.not_after), one.caller)
        for one in found
    ]
    columns = ("serial", "identity", "state", "reason", "issued", "until", "asked by")
    emit(output, [as_json(one) for one in found], lambda: table(columns, rows))


@click.command()
@click.argument("what", metavar="SERIAL|ID", required=False)
@click.option("--key", metavar="HASH", help="A public key instead, by its SHA-256 as `hbone cert list -o json` shows.")
@click.option("--reason", type=click.Choice(REASONS), default="unspecified", show_default=True, help="RFC 5280 §5.3.1.")
@state_dir_option
def revoke(what: str | None, key: str | None, reason: str, state_dir: Path | None) -> None:
    """Revoke, in force on every connected node within two seconds: no new handshake, and open tunnels are cut.

    \b
    a serial number    that certificate, all others of its key, and the renewals of whoever holds it
    NS/SA, spiffe://…  every certificate of an identity, and none is issued to it until `hbone cert restore`
    --key              every certificate of a key, whoever signed it

    \b
    hbone cert revoke 3f2a… --reason keyCompromise
    hbone cert revoke shop/cart
    """
    from hbone.proto.admin_pb2 import RevokeRequest

    if (what is None) == (key is None):
        raise click.UsageError("give either a serial number or identity, or --key HASH")

    async def ask(operations: Any, running: bool) -> "tuple[RevokeResponse, bool]":
        request = RevokeRequest(reason=reason)
        if key is not None:
            request.key_sha256 = key
        elif what is not None and "/" in what:
            request.spiffe_id = await _spiffe_id(operations, what)
        else:
            request.serial = what or ""
        return await operations.revoke(request), running

    _tell(*operate(state_dir, ask), done="revoked")


@click.command()
@click.argument("identity", metavar="ID")
@state_dir_option
def restore(identity: str, state_dir: Path | None) -> None:
    """Let a revoked identity have certificates again. Those from before stay revoked, and so do revoked keys."""
    from hbone.proto.admin_pb2 import RestoreRequest

    async def ask(operations: Any, running: bool) -> "tuple[RevokeResponse, bool]":
        spiffe_id = await _spiffe_id(operations, identity)
        return await operations.restore(RestoreRequest(spiffe_id=spiffe_id)), running

    _tell(*operate(state_dir, ask), done="restored")


async def _spiffe_id(operations: Any, text: str) -> str:
    """NS/SA is of the CA's own trust domain."""
    from hbone.config.refs import AccountRef, InvalidReference
    from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId, parse_trust_domain

    try:
        if text.startswith(SCHEME):
            return str(SpiffeId.parse(text))
        bundle = await operations.bundle()
        return str(AccountRef.parse(text).spiffe_id(parse_trust_domain(bundle.trust_domain)))
    except (InvalidSpiffeId, InvalidReference) as error:
        raise click.BadParameter(str(error)) from error


def _tell(found: "RevokeResponse", running: bool, *, done: str) -> None:
    click.echo(f"{done}: {found.what}")
    if found.certificates:
        click.echo(f"  {found.certificates} certificate{'s' if found.certificates > 1 else ''} not ended yet")
    if running:
        click.echo(
            f"  in force on {found.nodes_current} of {found.nodes} connected node{'s' if found.nodes != 1 else ''}"
        )
    else:
        click.echo("  no control plane runs: nodes are told when `hbone up` is started")
