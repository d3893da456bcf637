"""`hbone ca`: the life of the certificate authority."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.administration import as_json, gathered, operate, rotation_text, state_dir_option, status_text, steps_of
from hbone.cli.output import Format, Style, emit, output_option, styled

if TYPE_CHECKING:
    from hbone.app.administer import Operations
    from hbone.proto.admin_pb2 import CaStatusResponse, RotateRootRequest

_DONE = "none"


@click.group()
def ca() -> None:
    """Look after the certificate authority: rotate its root, import one, give out its bundle.

    The commands ask the `hbone up` that runs on this machine; where none runs, they work on its state directory.
    """


@ca.command()
@state_dir_option
@output_option
def status(state_dir: Path | None, output: Format) -> None:
    """Which authorities there are, how far a rotation is, and which nodes have the newest trust bundle."""
    found = operate(state_dir, lambda operations, _: operations.status())
    emit(output, as_json(found), lambda: status_text(found, sys.stdout))


@ca.command("rotate-intermediate")
@state_dir_option
def rotate_intermediate(state_dir: Path | None) -> None:
    """A new signing certificate below the same root. Nobody has to be told: certificates bring their chain along.

    Happens by itself when a fifth of the old one's life is left.
    """
    found = operate(state_dir, lambda operations, _: operations.rotate_intermediate())
    active = next(one for one in found.authorities if one.state == "active")
    click.echo(f"authority {active.number} signs: {active.signer}")


@ca.command("rotate-root")
@click.option("--back", "action", flag_value="BACK", help="One step back, and stay there.")
@click.option("--force", "action", flag_value="FORCE", help="The next step now, although somebody is not ready.")
@click.option("--recover", "action", flag_value="RECOVER", help="A new root at once, because the old one has ended.")
@click.option("--watch", is_flag=True, help="Show each step until the rotation has ended; Ctrl-C lets it go on.")
@state_dir_option
def rotate_root(*, action: str | None, watch: bool, state_dir: Path | None) -> int:
    """Replace the root, without one connection failing.

    \b
    prepared    a new root and intermediate exist; nobody knows of them
    published   the new root is in every bundle; next when every node has acknowledged it
    activated   the new root signs, nodes renew; next when no certificate of the old one is in use
    none        the old root is trusted no more; there is no way back

    Each step is on disk: a restart goes on from there. Without an option it begins, or goes on after --back.
    """
    from hbone.proto.admin_pb2 import RotateRootRequest

    request = RotateRootRequest(action=action or "FORWARD")
    return operate(state_dir, lambda operations, running: _rotate(operations, request, watch=watch, running=running))


async def _rotate(operations: "Operations", request: "RotateRootRequest", *, watch: bool, running: bool) -> int:
    found = await operations.rotate_root(request)
    if not (watch and running):
        _say(found)
    if not running and found.rotation.phase != _DONE and not found.rotation.paused:
        click.echo("no control plane runs: the rotation goes on when `hbone up` is started")
    elif watch and running:
        async for found in steps_of(operations.watch()):
            _say(found)
    elif found.rotation.phase != _DONE and not found.rotation.paused:
        click.echo("it goes on by itself; see `hbone ca status`, or `hbone ca rotate-root --watch`")
    return 0


def _say(found: "CaStatusResponse") -> None:
    active = next(one for one in found.authorities if one.state == "active")
    if found.rotation.phase == _DONE:
        click.echo(f"{styled('done', Style.GOOD, sys.stdout)}: {active.root} is the root")
    else:
        click.echo(rotation_text(found))


@ca.command("import")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@state_dir_option
def import_(directory: Path, state_dir: Path | None) -> None:
    """Take over a signing certificate with its key, for example one that your own root has signed.

    DIR holds Istio's files (ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem) or those of a Kubernetes TLS
    secret (tls.crt, tls.key, ca.crt). Below a root that is trusted already it signs at once; another root is brought
    in step by step, as by `hbone ca rotate-root`. The key is copied into the state directory.
    """
    from hbone.ca.material import KNOWN_FILES
    from hbone.proto.admin_pb2 import ImportCaRequest

    files = {path.name: path.read_bytes() for path in sorted(directory.iterdir()) if path.name in KNOWN_FILES}
    found = operate(state_dir, lambda operations, _: operations.import_ca(ImportCaRequest(files=files)))
    newest = max(found.authorities, key=lambda one: one.number)
    click.echo(f"authority {newest.number} is {newest.state}: {newest.signer}")
    if found.rotation.phase != _DONE:
        _say(found)


@ca.command("export-bundle")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["pem", "spiffe", "crl"]),
    default="pem",
    show_default=True,
    help="pem: the roots; spiffe: a SPIFFE bundle document; crl: the revocation lists, PEM (Istio's ca-crl.pem).",
)
@state_dir_option
def export_bundle(output: str, state_dir: Path | None) -> None:
    """What others need to trust this CA's certificates, and to know which of them are revoked.

    \b
    hbone ca export-bundle > root-cert.pem
    hbone ca export-bundle -o crl > ca-crl.pem
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    if output == "spiffe":
        click.echo(operate(state_dir, lambda operations, _: operations.document()), nl=False)
        return
    found = operate(state_dir, lambda operations, _: operations.bundle())
    roots = tuple(x509.load_der_x509_certificate(der) for der in found.roots)
    match output:
        case "crl":
            text = "".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM).decode() for der in found.crls)
        case _:
            text = "".join(root.public_bytes(Encoding.PEM).decode() for root in roots)
    click.echo(text, nl=False)


@ca.command()
@click.option("--after", type=click.IntRange(min=0), default=0, help="Lines after this number.")
@click.option("--check", is_flag=True, help="Only say whether the log is whole; exit code 1 if not.")
@state_dir_option
def audit(*, after: int, check: bool, state_dir: Path | None) -> int:
    """Everything that was issued, revoked and changed, as JSON lines in order.

    Each line is bound to the one before: a line that was altered or taken out shows.
    """
    from hbone.proto.admin_pb2 import ListAuditRequest

    pages = operate(state_dir, lambda operations, _: gathered(operations.audit(ListAuditRequest(after=after))))
    fault = max((page.first_fault for page in pages), default=0)
    if not check:
        for page in pages:
            for line in page.lines:
                click.echo(f'{{"number":{line.number},{line.line[1:]}')
    if fault:
        click.echo(f"{styled('not whole', Style.BAD, sys.stderr)}: line {fault} was altered, or is missing", err=True)
        return 1
    if check:
        click.echo(f"{styled('whole', Style.GOOD, sys.stdout)}: no line was altered or taken out")
    return 0
