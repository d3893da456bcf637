"""What every node is to trust: roots, revocation lists and revocations, made of the CA's state and published as one.

Whenever authorities or revocations change, `publish` signs the lists anew and hands the whole to subscribers. It is
pushed to every node at once and stays small: roots, one list for each CA with what has not ended, and the keys and
identities that were revoked.

Beside it stands what is known of other trust domains (`hbone.control.federation`): their roots, kept apart from ours.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from hbone.ca.crl import RevokedSerial, may_sign, sign_crl
from hbone.ca.generations import TRUSTED, Generation, Generations, State
from hbone.control import records
from hbone.control.authorities import Authorities
from hbone.control.revoker import Revoker
from hbone.control.store import StateStore
from hbone.control.trust_resource import DomainTrust
from hbone.identity.bundle import TrustBundle
from hbone.identity.jwk import Jwk
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import TrustDomain
from hbone.identity.svid import PrivateKey
from hbone.times import Clock, WallTime
from hbone.values import dataclass

OnTrust = Callable[[DomainTrust], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSources:
    """What trust is made of."""

    store: StateStore
    authorities: Authorities
    revoker: Revoker
    clock: Clock
    jwt_keys: tuple[Jwk, ...] = ()
    aliases: frozenset[TrustDomain] = frozenset()


class Trust:
    """The newest state of it. Use `open`."""

    def __init__(self, sources: TrustSources) -> None:
        self._sources = sources
        self._publishing = asyncio.Lock()
        self._listeners: dict[object, OnTrust] = {}
        self.current: DomainTrust
        self._foreign: tuple[DomainTrust, ...] = ()
        self._made_of: Generations | None = None

    @classmethod
    async def open(cls, sources: TrustSources) -> "Trust":
        trust = cls(sources)
        await trust.publish()
        return trust

    @property
    def bundle(self) -> TrustBundle:
        """What to judge peers of this mesh by now."""
        return self.current.bundle

    @property
    def known(self) -> tuple[DomainTrust, ...]:
        """This mesh, then every other trust domain that it federates with."""
        return (self.current, *self._foreign)

    @property
    def everybody(self) -> TrustBundle:
        """What to judge peers of any of them by."""
        return TrustBundle.union(one.bundle for one in self.known)

    def federate(self, foreign: Iterable[DomainTrust]) -> None:
        """These are the other trust domains from now on; everybody is told."""
        found = tuple(foreign)
        if found != self._foreign:
            self._foreign = found
            self._tell()

    @property
    def is_newest(self) -> bool:
        """Whether what was published last is of the authorities as they are now."""
        return self._made_of is self._sources.authorities.now

    def on_change(self, call: OnTrust) -> Callable[[], object]:
        """`call` with each new state. Returns what ends it."""
        key = object()
        self._listeners[key] = call
        return lambda: self._listeners.pop(key, None)

    async def publish(self) -> DomainTrust:
        """Make it anew from what is on disk, and tell everybody."""
        async with self._publishing:
            sources, now = self._sources, self._sources.clock.wall()
            generations = sources.authorities.now
            numbers = [one.number for one in generations.in_state(*TRUSTED)]
            content = _digest(generations.roots, sources.jwt_keys)
            stamp, revoked = await sources.store.write(lambda database: _next(database, numbers, content, now))
            self.current = await asyncio.to_thread(self._make, generations, revoked, stamp)
            self._made_of = generations
            self._tell()
            return self.current

    def _tell(self) -> None:
        for call in tuple(self._listeners.values()):
            call(self.current)

    def _make(self, generations: Generations, revoked: dict[int, list[RevokedSerial]], stamp: "_Stamp") -> DomainTrust:
        crls = [
            sign_crl(issuer, entries, number=stamp.sequence, now=stamp.at)
            for issuer, entries in _lists(generations, revoked).items()
            if may_sign(issuer[0])
        ]
        revoker = self._sources.revoker
        return DomainTrust(
            domain=generations.active.authority.trust_domain,
            roots=generations.roots,
            issuers=generations.trusted_chains,
            crls=tuple(crls),
            revocations=Revocations.from_crls(crls, revoker.keys, revoker.identities),
            renew=frozenset(_leaving(generations)),
            sequence=stamp.sequence,
            jwt_keys=self._sources.jwt_keys,
            aliases=self._sources.aliases,
            document_sequence=stamp.document_sequence,
        )


def _lists(
    generations: Generations, revoked: dict[int, list[RevokedSerial]]
) -> dict[tuple[x509.Certificate, PrivateKey], list[RevokedSerial]]:
    """Issuer → entries: each signing CA, and each root whose key we have, though nothing below it is revoked: once
    OpenSSL or BoringSSL has one list of a chain it wants one of every CA in it."""
    lists: dict[tuple[x509.Certificate, PrivateKey], list[RevokedSerial]] = {}
    for one in generations.in_state(*TRUSTED):
        authority = one.authority
        lists.setdefault((authority.signer, authority.key), []).extend(revoked.get(one.number, ()))
    certificates = {certificate for certificate, _ in lists}
    for one in generations.in_state(*TRUSTED):
        if one.authority.root_key is not None and one.root not in certificates:
            certificates.add(one.root)
            lists[one.root, one.authority.root_key] = []
    return lists


def _leaving(generations: Generations) -> list[bytes]:
    """Whose certificates are to be renewed soon: of roots that go, and of a new root that was taken back."""
    going = generations.in_state(State.RETIRING)
    roots = {one.root for one in going}
    below = [one for one in generations.in_state(State.REPLACED) if one.root in roots]
    return [_key_identifier(one) for one in (*going, *below, *generations.in_state(State.PUBLISHED))]


def _key_identifier(one: Generation) -> bytes:
    """As it stands in the authority key identifier of what it signs."""
    signer = one.authority.signer
    try:
        return signer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(one.authority.key.public_key()).digest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stamp:
    """When a state was made, and its numbers."""

    at: WallTime
    sequence: int
    document_sequence: int


def _next(
    database: sqlite3.Connection, numbers: list[int], content: str, now: WallTime
) -> tuple[_Stamp, dict[int, list[RevokedSerial]]]:
    """The next numbers, and what is on the list of each authority. `content`: a digest of the bundle document's."""
    sequence = 1 + int(_meta(database, "bundle_sequence") or 0)
    _remember(database, "bundle_sequence", str(sequence))
    document_sequence = int(_meta(database, "document_sequence") or 0)
    if _meta(database, "document_content") != content:
        document_sequence += 1
        _remember(database, "document_sequence", str(document_sequence))
        _remember(database, "document_content", content)
    revoked = {
        number: [
            RevokedSerial(serial=serial, at=at, reason=reason)
            for serial, at, reason in records.revoked_serials(database, number, now)
        ]
        for number in numbers
    }
    return _Stamp(at=now, sequence=sequence, document_sequence=document_sequence), revoked


def _meta(database: sqlite3.Connection, name: str) -> str | None:
    row = database.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])


def _remember(database: sqlite3.Connection, name: str, value: str) -> None:
    database.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


def _digest(roots: Iterable[x509.Certificate], jwt_keys: Iterable[Jwk]) -> str:
    """Of what a bundle document says, in whatever order."""
    names = sorted(
        [*(root.fingerprint(hashes.SHA256()).hex() for root in roots), *(f"jwt {one.kid}" for one in jwt_keys)]
    )
    return sha256("\n".join(names).encode()).hexdigest()
