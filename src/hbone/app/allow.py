"""`hbone expose --allow`: only these accounts may connect, whatever else the mesh permits."""

from hbone.config.refs import AccountRef
from hbone.errors import HboneError, PolicyDenied
from hbone.identity.spiffe import TrustDomain
from hbone.proxy.judge import Authorize, Facts


def only(accounts: tuple[AccountRef, ...], trust_domain: str) -> Authorize | None:
    """Lets in the accounts of this trust domain; None for an empty list, which is no restriction."""
    if not accounts:
        return None
    allowed = frozenset(account.spiffe_id(TrustDomain(trust_domain)) for account in accounts)
    names = ", ".join(map(str, accounts))

    def authorize(facts: Facts) -> HboneError | None:
        if facts.identity in allowed:
            return None
        return PolicyDenied(
            f"{facts.identity or 'a caller without an identity'} may not connect",
            why=f"only {names} may",
            fix="expose the port with --allow for this caller too",
        )

    return authorize
