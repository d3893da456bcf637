"""What every node is to trust: roots, revocation lists and revocations, made of the CA's state and published as one.

Whenever authorities or revocations change, `publish` signs the lists anew and hands the whole to subscribers. It is
pushed to every node at once and stays small: roots, one list for each CA with what has not ended, and the keys and
identities that were revoked.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from hbone.ca.crl import RevokedSerial, may_sign, sign_crl
from hbone.ca.generations import TRUSTED, Generation, Generations, State
from hbone.control import records
from hbone.control.authorities import Authorities
from hbone.control.revoker import Revoker
from hbone.control.store import StateStore
from hbone.control.trust_resource import DomainTrust
from hbone.identity.bundle import TrustBundle
from hbone.identity.revocation import Revocations
from hbone.identity.svid import PrivateKey
from hbone.times import Clock, WallTime

OnTrust = Callable[[DomainTrust], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSources:
    """What trust is made of."""

    store: StateStore
    authorities: Authorities
    revoker: Revoker
    clock: Clock


class Trust:
    """The newest state of it. Use `open`."""

    def __init__(self, sources: TrustSources) -> None:
        self._sources = sources
        self._publishing = asyncio.Lock()
        self._listeners: dict[object, OnTrust] = {}
        self.current: DomainTrust
        self._made_of: Generations | None = None

    @classmethod
    async def open(cls, sources: TrustSources) -> "Trust":
        trust = cls(sources)
        await trust.publish()
        return trust

    @property
    def bundle(self) -> TrustBundle:
        """What to judge peers by now."""
        return self.current.bundle

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
            sequence, revoked = await sources.store.write(lambda database: _next(database, numbers, now))
            self.current = await asyncio.to_thread(self._make, generations, revoked, (sequence, now))
            self._made_of = generations
            for call in tuple(self._listeners.values()):
                call(self.current)
            return self.current

    def _make(
        self, generations: Generations, revoked: dict[int, list[RevokedSerial]], stamp: tuple[int, WallTime]
    ) -> DomainTrust:
        sequence, now = stamp
        crls = [
            sign_crl(issuer, entries, number=sequence, now=now)
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
            sequence=sequence,
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


def _next(
    database: sqlite3.Connection, numbers: list[int], now: WallTime
) -> tuple[int, dict[int, list[RevokedSerial]]]:
    """The next sequence number, and what is on the list of each authority."""
    row = database.execute("SELECT value FROM meta WHERE name = 'bundle_sequence'").fetchone()
    sequence = 1 + (int(row[0]) if row else 0)
    database.execute("INSERT OR REPLACE INTO meta (name, value) VALUES ('bundle_sequence', ?)", (str(sequence),))
    revoked = {
        number: [
            RevokedSerial(serial=serial, at=at, reason=reason)
            for serial, at, reason in records.revoked_serials(database, number, now)
        ]
        for number in numbers
    }
    return sequence, revoked
