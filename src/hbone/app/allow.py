"""`hbone expose --allow`: only these accounts may connect, whatever else the mesh permits."""

from hbone.app.naming import Naming
from hbone.config.refs import AccountRef
from hbone.errors import HboneError, PolicyDenied
from hbone.proxy.judge import Authorize, Facts


def only(accounts: tuple[AccountRef, ...], naming: Naming) -> Authorize | None:
    """Lets in the accounts of this mesh, under whichever of its names; None for an empty list, which is no
    restriction."""
    if not accounts:
        return None
    allowed = frozenset((account.namespace, account.service_account) for account in accounts)
    names = ", ".join(map(str, accounts))

    def authorize(facts: Facts) -> HboneError | None:
        identity = facts.identity
        if identity is not None and identity.trust_domain in naming.now and identity.workload in allowed:
            return None
        return PolicyDenied(
            f"{facts.identity or 'a caller without an identity'} may not connect",
            why=f"only {names} may",
            fix="expose the port with --allow for this caller too",
        )

    return authorize
