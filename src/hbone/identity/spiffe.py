"""SPIFFE IDs (SPIFFE-ID standard §2), strict: what is parsed here is written back byte for byte.

Istio names workloads `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; any other path is a valid
identity too, it merely has no namespace and no service account.
"""

import re
from functools import lru_cache
from typing import Final, NewType, Self

from hbone.errors import PeerViolation
from hbone.values import dataclass

SCHEME: Final = "spiffe://"
MAX_ID_BYTES: Final = 2048  # SPIFFE-ID §2.3: all implementations take as much, none should write more
MAX_TRUST_DOMAIN_BYTES: Final = 255

TrustDomain = NewType("TrustDomain", str)
_TRUST_DOMAIN = re.compile(r"[a-z0-9._-]{1,255}")
_SEGMENT = re.compile(r"[a-zA-Z0-9._-]+")


class InvalidSpiffeId(PeerViolation):
    """Text that is not a SPIFFE ID."""

    flag = "TLS_FAILURE"


def parse_trust_domain(text: str) -> TrustDomain:
    """A trust domain name; raises InvalidSpiffeId."""
    if _TRUST_DOMAIN.fullmatch(text):
        return TrustDomain(text)
    raise InvalidSpiffeId(
        f"{text[:80]!r} is not a trust domain",
        fix="use 1 to 255 of a-z 0-9 '.' '-' '_', for example cluster.local",
    )


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """One identity. `path` begins with "/", or is empty for the trust domain itself."""

    trust_domain: TrustDomain
    path: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Strict grammar; raises InvalidSpiffeId with what is wrong and where."""
        if not text.startswith(SCHEME):
            raise InvalidSpiffeId(f"{text[:80]!r} is not a SPIFFE ID", fix="begin with spiffe://")
        if len(text) > MAX_ID_BYTES:  # bytes and characters are one: all that passes below is ASCII
            raise InvalidSpiffeId(f"a SPIFFE ID of {len(text)} characters", fix=f"use at most {MAX_ID_BYTES} bytes")
        domain, slash, path = text[len(SCHEME) :].partition("/")
        trust_domain = parse_trust_domain(domain)
        for segment in path.split("/") if slash else ():
            _check_segment(segment)
        return cls(trust_domain, slash + path)

    @classmethod
    def for_workload(cls, trust_domain: str, namespace: str, service_account: str) -> Self:
        """Istio's form; raises InvalidSpiffeId when a part does not fit the grammar, or holds more than one part."""
        parse_trust_domain(trust_domain)
        _check_segment(namespace)
        _check_segment(service_account)
        return cls.parse(f"{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}")

    @property
    def workload(self) -> tuple[str, str] | None:
        """(namespace, service account) of Istio's form, None for any other path."""
        return _workload(self.path)

    @property
    def namespace(self) -> str | None:
        parts = _workload(self.path)
        return parts[0] if parts else None

    @property
    def service_account(self) -> str | None:
        parts = _workload(self.path)
        return parts[1] if parts else None

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}{self.path}"


@dataclass(frozen=True, slots=True)
class DomainNames:
    """What one mesh is called: its trust domain, and the names that it had or will have (`trust_domain_aliases`)."""

    own: TrustDomain
    aliases: frozenset[TrustDomain] = frozenset()

    def __contains__(self, trust_domain: str) -> bool:
        return trust_domain == self.own or trust_domain in self.aliases

    def canonical(self, spiffe_id: SpiffeId) -> SpiffeId:
        """The same workload under the mesh's own name; of other meshes as it is."""
        return SpiffeId(self.own, spiffe_id.path) if spiffe_id.trust_domain in self.aliases else spiffe_id

    def forms(self, spiffe_id: SpiffeId) -> tuple[SpiffeId, ...]:
        """Every name that a workload of this mesh may show, its own first; of other meshes the one that is given."""
        if spiffe_id.trust_domain not in self:
            return (spiffe_id,)
        domains = (self.own, *sorted(self.aliases - {self.own}))
        return tuple(SpiffeId(domain, spiffe_id.path) for domain in domains)


def _check_segment(segment: str) -> None:
    """One part of a path, without slashes; raises InvalidSpiffeId."""
    if not _SEGMENT.fullmatch(segment) or segment in {".", ".."}:
        raise InvalidSpiffeId(
            f"a SPIFFE ID's path has {f'the segment {segment[:80]!r}' if segment else 'an empty segment'}",
            fix="use a-z A-Z 0-9 '.' '-' '_' between single slashes, for example /ns/shop/sa/cart",
        )


@lru_cache(maxsize=4096)
def _workload(path: str) -> tuple[str, str] | None:
    parts = path.split("/")
    if len(parts) == 5 and parts[1] == "ns" and parts[3] == "sa":
        return parts[2], parts[4]
    return None
