"""`hbone cert`: issue, show and verify certificates."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hbone.cli.arguments import ACCOUNT, PATH
from hbone.cli.commands.revocation import list_, restore, revoke
from hbone.cli.output import Format, Style, emit, output_option, styled

if TYPE_CHECKING:
    from hbone.config.refs import AccountRef
    from hbone.control.credentials import Credentials
    from hbone.identity.spiffe import SpiffeId, TrustDomain

CHAIN, KEY, ROOTS = "cert-chain.pem", "key.pem", "root-cert.pem"


class _Ttl(click.ParamType[Any]):
    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from hbone.ca.profile import MAX_TTL_S
        from hbone.config.units import InvalidQuantity, parse_duration

        try:
            ttl_s = parse_duration(value)
        except InvalidQuantity as error:
            self.fail(str(error), param, ctx)
        if not 1 <= ttl_s <= MAX_TTL_S:
            self.fail(f"{value!r} is not between 1s and {MAX_TTL_S / 86400:g}d", param, ctx)
        return ttl_s


class _Domain(click.ParamType[Any]):
    name = "trust domain"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "TrustDomain":
        from hbone.identity.spiffe import InvalidSpiffeId, parse_trust_domain

        try:
            return parse_trust_domain(str(value))
        except InvalidSpiffeId as error:
            self.fail(str(error), param, ctx)


TRUST_DOMAIN = _Domain()


@click.group()
def cert() -> None:
    """Issue, show, verify, list and revoke certificates."""


for _command in (list_, revoke, restore):
    cert.add_command(_command)


@cert.command()
@click.option("--as", "account", required=True, metavar="NS/SA", type=ACCOUNT, help="The identity to certify.")
@click.option("--ca", type=PATH, help="A CA directory; else the running `hbone up` is asked.")
@click.option(
    "--trust-domain",
    "domain",
    default="cluster.local",
    show_default=True,
    type=TRUST_DOMAIN,
    help="Trust domain of the CA.",
)
@click.option("--ttl", "ttl_s", default="24h", show_default=True, type=_Ttl(), help="Lifetime: 12h, 30d …")
@click.option("--state-dir", type=PATH, help="State directory of the running `hbone up`.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help=f"Directory for {CHAIN}, {KEY}, {ROOTS}.",
)
def issue(
    *, account: "AccountRef", ca: Path | None, domain: "TrustDomain", ttl_s: float, state_dir: Path | None, out: Path
) -> None:
    """A certificate and a fresh key for a workload, as the three files that Envoy, ztunnel and others read.

    The key is written with mode 0600 and shown nowhere. Run it again to renew; files of another identity are not
    replaced.

    \b
    hbone cert issue --as shop/cart --out ./cart
    hbone cert issue --as shop/cart --ca /etc/cacerts --ttl 7d --out ./cart
    """
    spiffe_id = account.spiffe_id(domain)
    _check_target(out, spiffe_id)
    settings: dict[str, Any] = {"trust_domain": str(domain), "svid_ttl_s": ttl_s}
    credentials = identity_source({**settings, **({"ca": ca} if ca is not None else {})}, state_dir, spiffe_id)
    _write(out, credentials)
    from hbone.cli.certificates import moment, view_of

    view = view_of(credentials.svid.leaf, moment())
    click.echo(f"{spiffe_id}\n  valid until {view.not_after}")
    for name in (CHAIN, KEY, ROOTS):
        click.echo(f"  {out / name}")


@cert.command()
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=PATH)
@output_option
def show(files: tuple[Path, ...], output: Format) -> None:
    """What is in certificate files: identity, validity, issuer, key, and what keeps a certificate from being an SVID.

    FILE is PEM with one or more certificates, `-` for standard input.
    """
    from hbone.cli.certificates import moment, read_certificates, view_of

    now = moment()
    views = [(path, index, view_of(one, now)) for path in files for index, one in enumerate(read_certificates(path))]

    def text() -> str:
        blocks: list[str] = []
        for path, index, view in views:
            heading = styled(f"{path}, certificate {index + 1}", Style.STRONG, sys.stdout)
            blocks.append("\n".join([heading, *(f"  {line}" for line in view.lines())]))
        return "\n\n".join(blocks)

    rows = [{"file": str(path), "position": index + 1, **view.to_json()} for path, index, view in views]
    emit(output, rows, text)


@cert.command()
@click.argument("file", metavar="FILE", type=PATH)
@click.option("--bundle", type=PATH, help="Roots: PEM, or a SPIFFE bundle document.")
@click.option("--ca", type=PATH, help="Roots of this CA directory.")
@click.option("--as", "wanted", metavar="ID", help="The identity it must have: NS/SA, or spiffe://…")
@click.option(
    "--trust-domain", "domain", type=TRUST_DOMAIN, help="Whose roots these are; by default the certificate's own."
)
def verify(file: Path, bundle: Path | None, ca: Path | None, wanted: str | None, domain: "TrustDomain | None") -> None:
    """Judge a certificate chain exactly as a node judges its peers. Exit code 0: accepted, 1: refused, and why.

    \b
    hbone cert verify cart/cert-chain.pem --bundle cart/root-cert.pem --as shop/cart
    hbone cert verify cart/cert-chain.pem --ca ~/.local/state/hbone/ca
    """
    from hbone.cli.certificates import moment, read_certificates, read_roots, roots_of_ca
    from hbone.errors import PeerRejected
    from hbone.identity.bundle import TrustBundle
    from hbone.identity.svid import spiffe_id_of
    from hbone.identity.verify import PeerSide, verify_peer
    from hbone.times import WallTime

    if (bundle is None) == (ca is None):
        raise click.UsageError("give either --bundle FILE or --ca DIR")
    roots = read_roots(bundle) if bundle is not None else roots_of_ca(ca or Path())
    chain = read_certificates(file)
    try:
        own = spiffe_id_of(chain[0])
        expected = own if wanted is None else _identity(wanted, domain or own.trust_domain)
        trusted = TrustBundle.of(domain or own.trust_domain, roots)
        for side in PeerSide:
            verify_peer(chain, trusted, expected=None, side=side, now=WallTime(moment().timestamp()))
    except PeerRejected as error:
        raise _refused(f"{error.what}: {error.why}" if error.why else error.what, error.fix) from error
    if own != expected:
        raise _refused(f"it is for {own}, not for {expected}", "check whose certificate this is")
    click.echo(f"{styled('accepted', Style.GOOD, sys.stdout)}: {own}")


def _refused(why: str, fix: str) -> click.exceptions.Exit:
    """Says so; to be raised, for the exit code of an answer that is no."""
    from hbone.cli.failures import printable

    click.echo(f"{styled('refused', Style.BAD, sys.stdout)}: {printable(why)}")
    if fix:
        click.echo(f"  fix: {printable(fix)}")
    return click.exceptions.Exit(1)


def identity_source(settings: dict[str, Any], state_dir: Path | None, spiffe_id: "SpiffeId") -> "Credentials":
    """A certificate by what a node with these settings would ask: its CA directory, else the running `hbone up`."""
    import asyncio
    import os

    from hbone.app.parts import identity_source as source_of
    from hbone.app.place import Place
    from hbone.config.model import NodeSettings

    place = Place(environment=dict(os.environ), state_dir=state_dir)
    source, _ = source_of(NodeSettings.model_validate(settings), place)
    return asyncio.run(source.fetch(spiffe_id))


def _identity(text: str, domain: "TrustDomain") -> "SpiffeId":
    from hbone.config.refs import AccountRef, InvalidReference
    from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId

    try:
        return SpiffeId.parse(text) if text.startswith(SCHEME) else AccountRef.parse(text).spiffe_id(domain)
    except (InvalidSpiffeId, InvalidReference) as error:
        raise click.BadParameter(str(error), param_hint="--as") from error


def _check_target(out: Path, spiffe_id: "SpiffeId") -> None:
    """Refuse to replace the files of another identity; raises UsageError."""
    from hbone.cli.certificates import read_certificates
    from hbone.errors import HboneError, UsageError
    from hbone.identity.svid import spiffe_id_of

    if not (out / KEY).exists():
        return
    try:
        there: object = spiffe_id_of(read_certificates(out / CHAIN)[0])
    except (HboneError, OSError):
        there = "something else"
    if there != spiffe_id:
        raise UsageError(f"{out} holds the key of {there}", fix="choose another directory, or remove its files")


def _write(out: Path, credentials: "Credentials") -> None:
    """All three beside their places first, then renamed: no reader sees a half-written file."""
    import os

    svid, bundle = credentials.svid, credentials.bundle
    out.mkdir(parents=True, exist_ok=True, mode=0o700)
    contents = (
        (KEY, svid.key_pem(), 0o600),
        (CHAIN, svid.chain_pem(), 0o644),
        (ROOTS, bundle.pem(svid.spiffe_id.trust_domain), 0o644),
    )
    for name, content, mode in contents:
        beside = out / f".{name}.new"
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
            file.write(content)
    for name, _, _ in contents:
        (out / f".{name}.new").replace(out / name)
