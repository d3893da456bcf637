"""`hbone bundle`: trust bundles."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import PATH
from hbone.cli.commands.cert import TRUST_DOMAIN

if TYPE_CHECKING:
    from cryptography import x509

    from hbone.identity.spiffe import TrustDomain


@click.group()
def bundle() -> None:
    """Show trust bundles."""


@bundle.command()
@click.option("--ca", type=PATH, help="A CA directory; by default that of `hbone up` here.")
@click.option(
    "--trust-domain",
    "domain",
    type=TRUST_DOMAIN,
    help="With --ca: its trust domain [default: cluster.local]; else whose bundle, one that `hbone up` federates with.",
)
@click.option("--state-dir", type=PATH, help="State directory of `hbone up`.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "pem", "spiffe"]),
    default="table",
    show_default=True,
    help="How to print; pem is what others need to trust this CA, spiffe is a SPIFFE bundle document.",
)
def show(ca: Path | None, domain: "TrustDomain | None", state_dir: Path | None, output: str) -> None:
    """The roots of a CA: what others need to trust its certificates. No private key is read or shown.

    \b
    hbone bundle show -o pem > roots.pem
    hbone bundle show -o spiffe > bundle.json
    """
    from hbone.cli.certificates import roots_of_ca
    from hbone.identity.spiffe import TrustDomain

    if ca is None and (domain is not None or output == "spiffe"):
        _show_document(domain, state_dir, output)
        return
    roots = roots_of_ca(ca if ca is not None else bundle_source(state_dir))
    _print(roots, domain or (_own_domain(state_dir) if ca is None else None) or TrustDomain("cluster.local"), output)


def _show_document(domain: "TrustDomain | None", state_dir: Path | None, output: str) -> None:
    """As the control plane here serves it to others, or took it from them."""
    from hbone.cli.administration import operate
    from hbone.identity.bundle import BundleDocument

    text = operate(state_dir, lambda operations, _: operations.document(domain or ""))
    if output == "spiffe" or domain is None:
        click.echo(text, nl=False)
    else:
        _print(BundleDocument.from_json(text).roots, domain, output)


def _own_domain(state_dir: Path | None) -> "TrustDomain | None":
    """Of the `hbone up` that keeps its state there, as far as it has said."""
    import os

    from hbone.config.places import state_dir as chosen
    from hbone.control.caplane import remembered

    found = remembered(chosen(os.environ, uid=os.getuid(), given=state_dir))
    return None if found is None else found.trust_domain


def bundle_source(state_dir: Path | None) -> Path:
    """The CA directory of the `hbone up` that keeps its state there."""
    import os

    from hbone.config.places import state_dir as chosen
    from hbone.errors import UsageError

    directory = chosen(os.environ, uid=os.getuid(), given=state_dir) / "ca"
    if not directory.exists():
        raise UsageError(
            "there is no CA here", why=f"{directory} does not exist", fix="start `hbone up` once, or name one: --ca DIR"
        )
    return directory


def _print(roots: "tuple[x509.Certificate, ...]", domain: "TrustDomain", output: str) -> None:
    from hbone.cli.certificates import moment, view_of
    from hbone.cli.output import duration, emit, table
    from hbone.identity.bundle import BundleDocument, TrustBundle

    views = [view_of(root, moment()) for root in roots]
    match output:
        case "pem":
            click.echo(TrustBundle.of(domain, roots).pem(domain), nl=False)
        case "spiffe":
            click.echo(BundleDocument(roots=roots).to_json(), nl=False)
        case "json" | "yaml":
            emit(output, {"trust_domain": domain, "roots": [view.to_json() for view in views]}, str)
        case _:
            rows = [
                (domain, view.subject, view.key, view.not_after, duration(view.left_s), view.fingerprint[:16])
                for view in views
            ]
            click.echo(table(("trust domain", "root", "key", "until", "left", "sha256"), rows))
