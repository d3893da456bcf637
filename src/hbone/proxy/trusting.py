"""Tunnels judged again: what was trusted when they were opened may not be any more, or not for long. Decides."""

from hbone.errors import HboneError, PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.svid import wall_time
from hbone.identity.verify import ForeignTrustDomain, check_revoked, leads_to
from hbone.net.tls import TlsStream


def lasts_s(tls: TlsStream) -> float:
    """Seconds until the first of the two certificates ends that a tunnel over `tls` was opened with; 0 if one has.

    From then on it takes no new streams. What is open on it runs to its end, as through a rotation: who is at its ends
    was proven when it began, and a transfer of days is not cut because a certificate is for a day.
    """
    ends = min(tls.contexts.svid.not_after, wall_time(tls.peer_chain[0].not_valid_after_utc))
    return max(0.0, ends - tls.contexts.clock.wall())


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


def outgrown(tls: TlsStream, bundle: TrustBundle, error: HboneError) -> bool:
    """Whether `error` is merely that the peer's trust domain is gone, and roots that we hold for another one signed its
    leaf: a name that the mesh had before. What is open then ends by itself, and nothing new begins on it."""
    if not isinstance(error, ForeignTrustDomain):
        return False
    return leads_to(tls.peer_chain, [root for held in bundle.roots.values() for root in held])
