"""What need not be found out again about a peer that comes back: its certificates, parsed, and the path that proved it.

Only what cannot change is remembered: that these very bytes are these certificates, and that this path from a leaf
to an anchor has good signatures and keeps RFC 5280's rules for issuers. Whatever can change is asked each time, by
`ProvenPath.holds` and by `hbone.identity.verify`: whether the anchor is among the roots of the identity's trust domain
now, whether all dates include this moment, whether something was revoked, who is expected, on which side. A path
that does not hold any more settles nothing: the peer is then judged as if it had never been seen.

Only chains that were accepted are kept, so strangers cannot fill the memory, and it is bounded all the same.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final, Self

from cryptography import x509

from hbone.values import dataclass

MAX_CHAINS: Final = 1024
MAX_DER_BYTES: Final = 2 * 1024 * 1024  # some 1 kB a chain; the parsed certificates take about three times as much


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenPath:
    """Certificates from a leaf to an anchor, each issued by the next; and the time in which all of them are valid."""

    certificates: tuple[x509.Certificate, ...]
    begins: datetime
    ends: datetime

    @classmethod
    def of(cls, certificates: Sequence[x509.Certificate]) -> Self:
        """Of a path that was found valid (`hbone.identity.verify.path_to_root`)."""
        return cls(
            certificates=tuple(certificates),
            begins=max(one.not_valid_before_utc for one in certificates),
            ends=min(one.not_valid_after_utc for one in certificates),
        )

    def holds(self, roots: Iterable[x509.Certificate], moment: datetime) -> bool:
        """Whether it still proves its leaf, where `roots` are those that may vouch for it now."""
        return self.begins <= moment <= self.ends and self.certificates[-1] in roots


@dataclass(frozen=True, slots=True)
class KnownChain:
    """A chain as it was presented (leaf first), and its path."""

    certificates: tuple[x509.Certificate, ...]
    path: ProvenPath


class KnownChains:
    """The chains of the peers that came last, by their exact bytes (the DER of each certificate, one after another)."""

    def __init__(self, *, max_chains: int = MAX_CHAINS, max_der_bytes: int = MAX_DER_BYTES) -> None:
        self._max_chains = max_chains
        self._max_der_bytes = max_der_bytes
        self._known: dict[bytes, KnownChain] = {}  # the one used last is the last
        self._der_bytes = 0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def der_bytes(self) -> int:
        """Of all that are kept."""
        return self._der_bytes

    def find(self, der: bytes) -> KnownChain | None:
        known = self._known.pop(der, None)
        if known is not None:
            self._known[der] = known
        return known

    def keep(self, der: bytes, known: KnownChain) -> None:
        """Remember an accepted chain; those not used for the longest time make room."""
        if self._known.pop(der, None) is None:
            self._der_bytes += len(der)
        self._known[der] = known
        while self._known and (len(self._known) > self._max_chains or self._der_bytes > self._max_der_bytes):
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._der_bytes -= len(oldest)
