"""Bundles of other trust domains (SPIFFE Federation §5): whether a document is taken, when to ask again, and what a
change of relationships means.

A bundle document does not say whose it is, and whoever can put a root into another domain's bundle can speak for all
of that domain. So a document is held against what is known: the roots that are others' already, the names inside its
certificates, and the number of the document before it. What is refused changes nothing: the bundle that is known
stays in force, however long that lasts.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Final, Self

from cryptography import x509

from hbone.errors import PeerViolation
from hbone.identity.bundle import BundleDocument, InvalidBundle, TrustBundle
from hbone.identity.revocation import KeyHash, key_hash
from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId, TrustDomain
from hbone.identity.svid import InvalidSvid
from hbone.times import Rng
from hbone.values import dataclass

DEFAULT_HINT_S: Final = 300  # Trust Domain and Bundle §4: for a document that gives none
LONGEST_HINT_S: Final = 86_400  # a hint of years would be the end of refreshing
FIRST_RETRY_S: Final = 1.0
_DOUBLINGS: Final = 17  # 2^17 s is past the longest hint
_EARLY: Final = 0.1  # of the hint; never later than it says


class BundleRefused(PeerViolation):
    """A bundle that is not taken; what is known of that domain stays in force."""


Owners = Mapping[KeyHash, TrustDomain]
"""Which trust domain a root's key belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relations:
    """What becomes of each relationship (§5.5: one ends by deleting the bundle and stopping the poll). Those in none
    of the three are not disturbed. `changed`: somebody else is to be asked, or the names are others."""

    begun: tuple[TrustDomain, ...] = ()
    changed: tuple[TrustDomain, ...] = ()
    ended: tuple[TrustDomain, ...] = ()

    @classmethod
    def of(cls, before: Mapping[TrustDomain, object], after: Mapping[TrustDomain, object]) -> Self:
        """`before` and `after`: what is said of each domain."""
        return cls(
            begun=tuple(name for name in after if name not in before),
            changed=tuple(name for name in after if name in before and after[name] != before[name]),
            ended=tuple(name for name in before if name not in after),
        )

    def former(self, domain: TrustDomain, aliases: AbstractSet[TrustDomain]) -> TrustDomain:
        """The name under which `domain` was known so far: its own, or of one that ended and is an alias now. So one
        that is renamed keeps its bundle."""
        if domain not in self.begun:
            return domain
        return next((name for name in self.ended if name in aliases), domain)


def check_bundle(found: BundleDocument, domain: TrustDomain, known: BundleDocument | None, owners: Owners) -> None:
    """Raises BundleRefused unless `found` may stand for `domain` in the place of `known` (None: the first one).

    `owners`: of the roots of every other domain. A document without anything is taken only after one that had
    something: everything that the domain issued is then revoked (Trust Domain and Bundle §4).
    """
    if known is None and not found.roots and not found.jwt_keys:
        raise BundleRefused(
            f"the bundle of {domain} holds no key that could be used",
            why="no entry has the use x509-svid with a certificate, or jwt-svid with a kid",
            fix="check that the address is a SPIFFE bundle endpoint",
        )
    for root in found.roots:
        _check_root(root, domain, owners)
    try:
        TrustBundle.of(domain, found.roots)
        found.to_json()  # as it is kept
    except InvalidBundle as error:
        raise BundleRefused(error.what, why=error.why, fix=error.fix) from error
    if known is not None:
        _check_number(found, domain, known)


def _check_root(root: x509.Certificate, domain: TrustDomain, owners: Owners) -> None:
    try:
        name, owner, is_ca = _name_in(root), owners.get(key_hash(root)), _is_ca(root)
    except (ValueError, InvalidSvid, InvalidSpiffeId, x509.DuplicateExtension) as error:
        raise BundleRefused(f"a root in the bundle of {domain} cannot be read", why=str(error)[:200]) from error
    called = root.subject.rfc4514_string()[:200] or "without a name"
    if not is_ca:
        raise BundleRefused(f"the certificate {called} in the bundle of {domain} is no CA", fix="give CA certificates")
    if name is not None and name != domain:
        raise BundleRefused(
            f"the root {called} in the bundle of {domain} is of {name}",
            why="its own SPIFFE ID says so",
            fix="check which trust domain the address belongs to",
        )
    if owner is not None:
        raise BundleRefused(
            f"the root {called} in the bundle of {domain} is one of {owner}",
            why="two trust domains with one root could speak for each other",
            fix="check which trust domain the address belongs to; two names of one mesh are `trust_domain_aliases`",
        )


def _name_in(root: x509.Certificate) -> TrustDomain | None:
    """The trust domain that a root's own SPIFFE ID names (X509-SVID §4.1: a signing certificate may have one)."""
    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = [uri for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if uri.startswith(SCHEME)]
    return SpiffeId.parse(uris[0]).trust_domain if uris else None


def _is_ca(root: x509.Certificate) -> bool:
    try:
        return root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _check_number(found: BundleDocument, domain: TrustDomain, known: BundleDocument) -> None:
    before, now = known.sequence, found.sequence
    if before is None:
        return
    fix = "an old copy is served; if the domain was made anew, remove it from `federation` and add it again"
    if now is None:
        raise BundleRefused(f"the bundle of {domain} has no number any more", why=f"the last had {before}", fix=fix)
    if now < before:
        raise BundleRefused(f"the bundle of {domain} has the number {now}", why=f"the last had {before}", fix=fix)
    if now == before and found.content != known.content:
        raise BundleRefused(
            f"the bundle of {domain} is another one under the same number {now}",
            why="its `spiffe_sequence` must grow with every change",
            fix=fix,
        )


def interval_of(known: BundleDocument | None) -> float:
    """Seconds between two looks: what the domain asks for, between 1 s and a day; 300 s if it asks for nothing."""
    hint = known.refresh_hint_s if known is not None else None
    return float(min(hint or DEFAULT_HINT_S, LONGEST_HINT_S))


def next_look_s(known: BundleDocument | None, failures: int, rng: Rng) -> float:
    """Seconds until the next fetch. `failures`: how many have failed in a row.

    After a success the domain's own interval, up to a tenth less, so that all who federate do not come at one
    moment. After failures 1 s, doubling up to that interval: §5.4 forbids to hammer, and a new relationship should
    not wait five minutes for its other half to start.
    """
    interval = interval_of(known)
    if not failures:
        return interval * rng.uniform(1.0 - _EARLY, 1.0)
    return min(interval, FIRST_RETRY_S * 2.0 ** min(failures - 1, _DOUBLINGS)) * rng.uniform(0.8, 1.0)
