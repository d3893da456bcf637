"""Certificates as the data plane wants them: the keeper's newest, made into TLS contexts once each."""

from collections.abc import Callable

from hbone.control.credentials import Credentials as Issued
from hbone.control.renew import IdentityKeeper
from hbone.identity.spiffe import SpiffeId
from hbone.net.tlscontext import TlsContexts, TlsOptions
from hbone.proxy.identities import Credentials
from hbone.times import Clock


class TlsIdentities:
    """`hbone.proxy.identities.Identities` on top of an IdentityKeeper."""

    def __init__(self, keeper: IdentityKeeper, clock: Clock, options: TlsOptions | None = None) -> None:
        self._keeper = keeper
        self._clock = clock
        self._options = options or TlsOptions()
        self._made: dict[SpiffeId, tuple[Issued, Credentials]] = {}
        self._subscribers: list[Callable[[SpiffeId], None]] = []
        keeper.on_rotation(self._on_issued)

    def current(self, identity: SpiffeId) -> Credentials | None:
        issued = self._keeper.current(identity)
        return None if issued is None else self._made_of(identity, issued)

    async def fetch(self, identity: SpiffeId) -> Credentials:
        return self._made_of(identity, await self._keeper.get(identity))

    def on_renewed(self, call: Callable[[SpiffeId], None]) -> None:
        """`call` when an identity that was in use has a newer certificate."""
        self._subscribers.append(call)

    def _made_of(self, identity: SpiffeId, issued: Issued) -> Credentials:
        made = self._made.get(identity)
        if made is None or made[0] is not issued:
            contexts = TlsContexts(issued.svid, issued.bundle, self._options, self._clock)
            generation = made[1].generation + 1 if made is not None else 1
            made = self._made[identity] = (issued, Credentials(identity, contexts, generation))
        return made[1]

    def _on_issued(self, identity: SpiffeId, issued: Issued) -> None:
        known = identity in self._made
        self._made_of(identity, issued)
        if known:
            for call in tuple(self._subscribers):
                call(identity)
