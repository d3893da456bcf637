"""Why a peer is refused (`hbone.identity.verify`), each with the TLS alert that tells it (RFC 8446 §6.2)."""

from hbone.errors import PeerRejected


class NoCertificate(PeerRejected):
    """The peer presented no certificate."""

    alert = 116  # certificate_required


class UntrustedRoot(PeerRejected):
    """No root of the peer's trust domain vouches for its chain. Attribute: `spiffe_id`."""

    alert = 48  # unknown_ca


class ForeignTrustDomain(PeerRejected):
    """We hold no roots for the peer's trust domain, or do not serve it. Attribute: `spiffe_id`."""

    alert = 48  # unknown_ca


class Expired(PeerRejected):
    """A certificate of the chain has ended. Attributes: `spiffe_id`, `not_after` (datetime)."""

    alert = 45  # certificate_expired


class NotYetValid(PeerRejected):
    """A certificate of the chain begins in the future. Attributes: `spiffe_id`, `not_before` (datetime)."""

    alert = 42  # bad_certificate


class WrongUsage(PeerRejected):
    """The leaf may not be used for this side of TLS. Attribute: `spiffe_id`."""

    alert = 43  # unsupported_certificate


class BrokenChain(PeerRejected):
    """The chain breaks a rule of RFC 5280: CA flag, path length, name constraint, critical extension …"""

    alert = 42  # bad_certificate


class Revoked(PeerRejected):
    """A certificate of the chain, its key, or the identity was revoked. Attributes: `spiffe_id`, `reason`."""

    alert = 44  # certificate_revoked


class UnexpectedIdentity(PeerRejected):
    """A trusted peer, but not the one we wanted. Attributes: `spiffe_id`, `expected` (frozenset of SpiffeId)."""

    flag = "TLS_FAILURE"
    alert = 46  # certificate_unknown
