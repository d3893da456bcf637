"""What the data plane asks of whoever keeps certificates; `control` fills it, `app/build.py` brings them together."""

from typing import Protocol

from hbone.identity.spiffe import SpiffeId
from hbone.net.tlscontext import TlsContexts
from hbone.values import dataclass


@dataclass(frozen=True, slots=True)
class Credentials:
    """One identity's certificate, as TLS contexts. `generation` is another one for each new certificate."""

    identity: SpiffeId
    contexts: TlsContexts
    generation: int


class Identities(Protocol):
    """The certificates of the workloads on this node, always the newest."""

    def current(self, identity: SpiffeId) -> Credentials | None:
        """At once: None while there is none yet, or none that is valid."""
        ...

    async def fetch(self, identity: SpiffeId) -> Credentials:
        """Waits for the first certificate (bounded); raises IdentityUnavailable with the reason."""
        ...
