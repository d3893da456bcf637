"""Tunnels judged again: what was trusted when they were opened may not be any more. Decides."""

from hbone.errors import HboneError, PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.verify import ForeignTrustDomain, check_revoked
from hbone.net.tls import TlsStream


def distrust(tls: TlsStream, bundle: TrustBundle) -> HboneError | None:
    """Why the tunnel over `tls` must end by what `bundle` says now; None if it may go on.

    A root that left the bundle ends no tunnel: its certificates were good when they were shown, and roots are taken
    out when nothing uses them any more. A revoked peer's tunnels end, and those of a trust domain that is gone.
    """
    try:
        check_revoked(tls.peer_chain, bundle, tls.peer)
    except PeerRejected as error:
        return error
    if bundle.store(tls.peer.trust_domain) is None:
        return ForeignTrustDomain(
            f"trust domain {tls.peer.trust_domain} of {tls.peer} is trusted no more", spiffe_id=tls.peer
        )
    return None
