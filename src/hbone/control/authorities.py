"""The CA's authorities on disk and in force: does what `hbone.ca.generations` decides.

The database says which authorities there are and in what state; their keys are with the key provider. A new key is
on disk before the row that names it, a row is gone before its key is destroyed: a crash leaves at most a key that
nobody names, and the next start removes it. The directory of the CA's own files (Istio's names) is a view of the
active authority for others to read, written anew at each change and each start.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import Any, Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.authority import CaKeys, CertificateAuthority, Lifetimes
from hbone.ca.generations import Generation, Generations, State
from hbone.control import audit, caview
from hbone.control.keys import KeyId, KeyProvider, key_id_of
from hbone.control.store import StateStore
from hbone.errors import UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.identity.svid import PrivateKey
from hbone.times import Clock, Rng, WallTime
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

OPERATOR: Final = "operator"
Step = Callable[[Generations], Generations]
Entry = Callable[[Generations, Generation], Generations]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaParts:
    """What a CA is made of. `view` is the directory of its files, None for none; `plugged`: it comes from files that
    an operator keeps elsewhere, as they are now."""

    store: StateStore
    keys: KeyProvider
    trust_domain: TrustDomain
    clock: Clock
    rng: Rng
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    view: Path | None = None
    plugged: CertificateAuthority | None = None

    @property
    def source(self) -> str:
        return "own" if self.plugged is None else "plugged"


class Authorities:
    """All authorities of one CA. Changes go one at a time; each is on disk before it is in force."""

    def __init__(self, parts: CaParts, generations: Generations) -> None:
        self.parts = parts
        self.now = generations
        self._changing = asyncio.Lock()
        self._listeners: dict[object, Callable[[], None]] = {}

    @classmethod
    async def open(cls, parts: CaParts) -> Self:
        """What the database holds; else what the view's directory holds; else a new root and intermediate.

        Raises KeyUnavailable, InvalidConfiguration, StoreFailed. An authority that has ended is no error here: it
        can be replaced.
        """
        if parts.plugged is not None:
            return await cls._open_plugged(parts, parts.plugged)
        rows = await parts.store.read(lambda database: _rows(database, parts.source))
        generations = Generations.of(_generation(row, parts) for row in rows)
        opened = cls(parts, generations if rows else await _found(parts))
        await asyncio.to_thread(opened._tidy)
        return opened

    @classmethod
    async def _open_plugged(cls, parts: CaParts, authority: CertificateAuthority) -> Self:
        rows = await parts.store.read(lambda database: _rows(database, parts.source))
        same = [row for row in rows if row.signer == _pem((authority.signer,))]
        if same:
            now = Generation(number=same[0].number, authority=authority, state=State.ACTIVE, since=same[0].since)
            return cls(parts, Generations.of([now]))
        moment = parts.clock.wall()

        def work(database: sqlite3.Connection) -> Generations:
            database.execute("UPDATE authorities SET state = 'retired' WHERE source = ?", (parts.source,))
            return _first(database, authority, parts, ("ca plugged in", moment))

        return cls(parts, await parts.store.write(work))

    @property
    def signing(self) -> CertificateAuthority:
        """Who signs now."""
        return self.now.active.authority

    def on_change(self, call: Callable[[], None]) -> Callable[[], object]:
        """`call` after each change. Returns what ends it."""
        key = object()
        self._listeners[key] = call
        return lambda: self._listeners.pop(key, None)

    # --- making -----------------------------------------------------------------------------------------------

    async def new_root(self) -> CertificateAuthority:
        """A root and an intermediate with fresh keys, which the provider keeps already."""
        return await asyncio.to_thread(_new_root, self.parts)

    async def new_intermediate(self) -> CertificateAuthority:
        """Another intermediate under the active root; raises CannotRenew, AuthorityEnded."""
        return await asyncio.to_thread(self._new_intermediate)

    async def adopt(self, authority: CertificateAuthority) -> CertificateAuthority:
        """Have the provider keep the keys of an authority that was made elsewhere."""
        await asyncio.to_thread(_take_keys, self.parts, authority)
        return authority

    def _new_intermediate(self) -> CertificateAuthority:
        parts = self.parts
        _, key = parts.keys.create()
        return self.signing.with_intermediate(
            key, now=parts.clock.wall(), rng=parts.rng, ttl_s=parts.lifetimes.intermediate_s
        )

    # --- changing ---------------------------------------------------------------------------------------------

    async def add(self, authority: CertificateAuthority, step: Entry, event: str) -> int:
        """Take `authority` in by `step` (of Generations), as a new generation; its number."""
        async with self._changing:
            now = self.parts.clock.wall()

            def work(database: sqlite3.Connection) -> tuple[int, Generations]:
                number = _next_number(database)
                new = Generation(number=number, authority=authority, state=State.PREPARED, since=now)
                after = step(self.now, new)
                self._write(database, after, event, number)
                return number, after

            number, after = await self.parts.store.write(work)
            await self._in_force(after)
            return number

    async def change(self, step: Step, event: str) -> None:
        """Go one step on or back. Raises WrongPhase, with nothing changed."""
        async with self._changing:

            def work(database: sqlite3.Connection) -> Generations:
                after = step(self.now)
                self._write(database, after, event, None)
                return after

            await self._in_force(await self.parts.store.write(work))

    def _write(self, database: sqlite3.Connection, after: Generations, event: str, number: int | None) -> None:
        """The difference between what is in force and `after`, with its line in the audit log."""
        for one in sorted(after.by_number.values(), key=lambda one: one.state is State.ACTIVE):
            _put(database, one, self.parts.source)  # the one that signs last: there is never a second one
        values: dict[str, str | float | None] = {"event": event, "at": self.parts.clock.wall(), "caller": OPERATOR}
        values["authority"] = after.active.number if number is None else number
        values["states"] = ", ".join(f"{one.number} {one.state.value}" for one in after.by_number.values())
        audit.append(database, values)

    async def _in_force(self, after: Generations) -> None:
        before, self.now = self.now, after
        await asyncio.to_thread(self._settle, before)
        for call in tuple(self._listeners.values()):
            call()

    def _settle(self, before: Generations) -> None:
        """What follows a change on disk: the view, and keys that nobody can need any more."""
        self._write_view()
        needed = _keys_of(self.now)
        for key_id in _keys_of(before) - needed:
            self.parts.keys.destroy(key_id)

    def _write_view(self) -> None:
        view = self.parts.view
        if view is not None:
            caview.write(view, self.signing, self.now.roots)

    def _tidy(self) -> None:
        """The view is made right; keys that a crash left without an owner go."""
        self._write_view()
        for key_id in set(self.parts.keys.names()) - _keys_of(self.now):
            log.warning("a key without a certificate is removed", extra={"key": key_id})
            self.parts.keys.destroy(key_id)


async def _found(parts: CaParts) -> Generations:
    """The first authority: from the view's directory, where an earlier version or an operator left one, or new."""
    authority = None if parts.view is None else await asyncio.to_thread(caview.read, parts.view, parts)
    event = "ca taken up"
    if authority is None:
        authority, event = await asyncio.to_thread(_new_root, parts), "ca created"
    else:
        await asyncio.to_thread(_take_keys, parts, authority)
    first, moment = authority, parts.clock.wall()
    return await parts.store.write(lambda database: _first(database, first, parts, (event, moment)))


def _first(
    database: sqlite3.Connection, authority: CertificateAuthority, parts: CaParts, happened: tuple[str, WallTime]
) -> Generations:
    event, moment = happened
    active = Generation(number=_next_number(database), authority=authority, state=State.ACTIVE, since=moment)
    _put(database, active, parts.source)
    audit.append(database, {"event": event, "at": moment, "caller": OPERATOR, "authority": active.number})
    return Generations.of([active])


def _new_root(parts: CaParts) -> CertificateAuthority:
    (_, root), (_, intermediate) = parts.keys.create(), parts.keys.create()
    keys = CaKeys(root=root, intermediate=intermediate)
    now = parts.clock.wall()
    return CertificateAuthority.create(parts.trust_domain, keys, now=now, rng=parts.rng, lifetimes=parts.lifetimes)


def _take_keys(parts: CaParts, authority: CertificateAuthority) -> None:
    for key in (authority.key, authority.root_key):
        if key is not None:
            parts.keys.take(key)


def _keys_of(generations: Generations) -> set[KeyId]:
    """Of what signs, will sign, or must still sign revocation lists."""
    found: set[KeyId] = set()
    for one in generations.by_number.values():
        if one.state is not State.RETIRED:
            found.add(key_id_of(one.authority.key))
            if one.authority.root_key is not None:
                found.add(key_id_of(one.authority.root_key))
    return found


# --- rows -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    number: int
    state: State
    since: WallTime
    key_id: KeyId
    root_key_id: KeyId | None
    signer: str
    chain: str
    roots: str


def _rows(database: sqlite3.Connection, source: str) -> list[_Row]:
    """All of a source that are not retired: those need no key any more, and nothing of theirs is trusted."""
    found = database.execute(
        "SELECT number, state, since, key_id, root_key_id, signer, chain, roots FROM authorities"
        " WHERE state <> 'retired' AND source = ? ORDER BY number",
        (source,),
    )
    return [_row(values) for values in found]


def _row(values: tuple[Any, ...]) -> _Row:
    number, state, since, key_id, root_key_id, signer, chain, roots = values
    return _Row(
        number=number,
        state=State(state),
        since=since,
        key_id=key_id,
        root_key_id=root_key_id,
        signer=signer,
        chain=chain,
        roots=roots,
    )


def _generation(row: _Row, parts: CaParts) -> Generation:
    """Raises KeyUnavailable, UsageError for certificates that do not belong to their keys."""
    (signer,) = x509.load_pem_x509_certificates(row.signer.encode())
    key = parts.keys.load(row.key_id)
    root_key = _root_key(row, parts)
    authority = CertificateAuthority(
        trust_domain=parts.trust_domain,
        signer=signer,
        key=key,
        chain=_certificates(row.chain),
        roots=_certificates(row.roots),
        root_key=root_key,
    )
    if not authority.key_fits:
        raise UsageError(
            f"the CA's key {row.key_id} does not belong to its certificate",
            why="the database and the keys are not of the same CA",
            fix="restore both from the same backup",
        )
    return Generation(number=row.number, authority=authority, state=row.state, since=row.since)


def _root_key(row: _Row, parts: CaParts) -> PrivateKey | None:
    return None if row.root_key_id is None else parts.keys.load(row.root_key_id)


def _put(database: sqlite3.Connection, one: Generation, source: str) -> None:
    authority = one.authority
    database.execute(
        "INSERT INTO authorities (number, source, state, since, created_at, key_id, root_key_id, signer, chain, roots)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET state = excluded.state,"
        " since = excluded.since",
        (
            one.number,
            source,
            one.state.value,
            one.since,
            one.since,
            key_id_of(authority.key),
            None if authority.root_key is None else key_id_of(authority.root_key),
            _pem((authority.signer,)),
            _pem(authority.chain),
            _pem(authority.roots),
        ),
    )


def _next_number(database: sqlite3.Connection) -> int:
    """Never one that was used before: certificates refer to it."""
    row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'authorities'").fetchone()
    return 1 + (int(row[0]) if row else 0)


def _pem(certificates: tuple[x509.Certificate, ...]) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)


def _certificates(pem: str) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificates(pem.encode())) if pem else ()
