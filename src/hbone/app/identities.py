"""Certificates as the data plane wants them: the keeper's newest, made into TLS contexts once each."""

from collections.abc import Callable

from hbone.app.naming import Naming
from hbone.control.credentials import Credentials as Issued
from hbone.control.renew import IdentityKeeper
from hbone.identity.bundle import TrustBundle
from hbone.identity.proven import KnownChains
from hbone.identity.spiffe import SpiffeId
from hbone.net.tlscontext import TlsContexts, TlsOptions
from hbone.proxy.identities import Credentials
from hbone.times import Clock


class TlsIdentities:
    """`hbone.proxy.identities.Identities` on top of an IdentityKeeper."""

    def __init__(
        self, keeper: IdentityKeeper, clock: Clock, options: TlsOptions | None = None, naming: Naming | None = None
    ) -> None:
        """`naming`: what else the mesh is called."""
        self._keeper = keeper
        self._naming = naming
        self._clock = clock
        self._options = options or TlsOptions()
        self._known = KnownChains()
        self._trusted: TrustBundle | None = None
        self._made: dict[SpiffeId, tuple[Issued, Credentials]] = {}
        self._made_ever = 0  # a generation is never used twice: an identity may go, and come back
        self._subscribers: list[Callable[[SpiffeId], None]] = []
        keeper.on_rotation(self._on_issued)

    def current(self, identity: SpiffeId) -> Credentials | None:
        issued = self._keeper.current(identity)
        return None if issued is None else self._made_of(identity, issued)

    async def fetch(self, identity: SpiffeId) -> Credentials:
        return self._made_of(identity, await self._keeper.get(identity))

    def forget(self, identity: SpiffeId) -> None:
        """No workload here has it any more: its key is dropped, and nothing is renewed."""
        self._keeper.forget(identity)
        self._made.pop(identity, None)

    def on_renewed(self, call: Callable[[SpiffeId], None]) -> None:
        """`call` when an identity that was in use has a newer certificate."""
        self._subscribers.append(call)

    def trust(self, bundle: TrustBundle) -> None:
        """Judge peers by `bundle` from now on, whatever roots come with certificates. Certificates and tunnels stay."""
        self._trusted = bundle
        for identity, (issued, made) in tuple(self._made.items()):
            contexts = made.contexts.with_bundle(self._bundle_for(identity, issued))
            self._made[identity] = (issued, Credentials(identity, contexts, made.generation))

    def _bundle_for(self, identity: SpiffeId, issued: Issued) -> TrustBundle:
        """What a control plane pushes counts more than the roots that came with a certificate: it is never older."""
        if self._trusted is None:
            bundle = issued.bundle
        elif identity.trust_domain in self._trusted.domains:
            bundle = self._trusted
        else:
            bundle = issued.bundle.merged(self._trusted)
        return bundle if self._naming is None else self._naming.named(bundle)

    def _made_of(self, identity: SpiffeId, issued: Issued) -> Credentials:
        made = self._made.get(identity)
        if made is None or made[0] is not issued:
            bundle = self._bundle_for(identity, issued)
            contexts = TlsContexts(issued.svid, bundle, self._options, self._clock, self._known)
            self._made_ever += 1
            made = self._made[identity] = (issued, Credentials(identity, contexts, self._made_ever))
        return made[1]

    def _on_issued(self, identity: SpiffeId, issued: Issued) -> None:
        known = identity in self._made
        self._made_of(identity, issued)
        if known:
            for call in tuple(self._subscribers):
                call(identity)
