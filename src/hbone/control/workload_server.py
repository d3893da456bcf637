"""The socket that programs of this machine get their identities from: SPIFFE Workload API and SDS."""

import logging
from collections.abc import Callable, Sequence

from hbone.control.local_workloads import LocalWorkloads
from hbone.control.rpc import Peer, RpcServer, Servable, UnixPeer
from hbone.control.sds import SecretService
from hbone.control.unixsocket import ControlSocket
from hbone.control.workload_api import WorkloadApi
from hbone.identity.spiffe import SpiffeId
from hbone.values import dataclass

log = logging.getLogger("hbone.control")


def nothing_more(_peer: UnixPeer, identity: SpiffeId) -> str:
    """No process has an identity that no rule gives it."""
    return f"no rule gives you {identity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalServices:
    """What one machine's processes are served. `entitled`: why a process may not name an identity that no rule gives
    it; empty if it may."""

    workloads: LocalWorkloads
    entitled: Callable[[UnixPeer, SpiffeId], str] = nothing_more

    def on(self, peer: UnixPeer) -> Sequence[Servable]:
        """For one connection."""
        process = self.workloads.attestor.on(peer)
        return (
            WorkloadApi(self.workloads, process),
            SecretService(self.workloads, process, lambda identity: self.entitled(peer, identity)),
        )


class WorkloadServer:
    """Serves them on a socket of their own, which may be open to every user: who gets what the rules say."""

    def __init__(self, services: LocalServices, *, max_connections: int = 4096) -> None:
        self._services = services
        self._rpc = RpcServer(self._on, max_connections=max_connections)
        self._socket: ControlSocket | None = None

    async def start(self, listening: ControlSocket) -> None:
        """Serve on a socket that is ours from now on."""
        self._socket = listening
        await self._rpc.start(listening.sock)
        log.info("workload socket listens", extra={"socket": str(listening.path)})

    async def close(self) -> None:
        await self._rpc.close()
        listening, self._socket = self._socket, None
        if listening is not None:
            listening.close()

    def _on(self, peer: Peer) -> Sequence[Servable]:
        return self._services.on(peer) if isinstance(peer, UnixPeer) else ()
