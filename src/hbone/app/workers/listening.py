"""The node's listening sockets: a set for each worker, all of them open in the agent for as long as it runs.

A TCP listener is opened once for each worker (SO_REUSEPORT, socket(7)): the kernel gives a new connection to one of
the sockets by a hash of its addresses, and each has a queue of its own. A worker that dies leaves its queue to its
successor. A Unix socket, and a descriptor that somebody handed to us, exist once: all workers accept from it.
"""

import socket
import sys
from collections.abc import Mapping
from dataclasses import field
from typing import Final

from hbone.addr import SocketAddress
from hbone.app.dataplane import setting_of
from hbone.app.options import ListenerFailed, open_listener
from hbone.app.workers.balancing import BALANCES, Balancing
from hbone.config.listen import InheritedListen, Listen, TcpListen, UnixListen
from hbone.config.model import NodeSettings
from hbone.errors import UsageError
from hbone.net.sockets import bind_listener, bound_address, remove_socket
from hbone.telemetry.views import ListenerView
from hbone.values import dataclass

AGENTS: Final = frozenset({"admin", "readiness", "metrics"})
"""Listeners that are the agent's own."""
SPREADS: Final = sys.platform == "linux"  # elsewhere SO_REUSEPORT gives everything to one of the sockets


def workers_listen(settings: NodeSettings) -> dict[str, Listen]:
    """What workers listen on, by the name that a data plane has for it."""
    given: dict[str, Listen | None] = {
        name: getattr(settings.listeners, name) for name in type(settings.listeners).model_fields if name not in AGENTS
    }
    given |= {f"forward {place}": forward.listen for place, forward in enumerate(settings.forwards, 1)}
    return {name: listen for name, listen in given.items() if listen is not None}


def with_descriptors(settings: NodeSettings, descriptors: Mapping[str, int]) -> NodeSettings:
    """The settings of a worker: its listeners are handed down, those of the agent are off."""
    listeners = {
        name: InheritedListen(descriptors[name]) if name in descriptors else None
        for name in type(settings.listeners).model_fields
    }
    forwards = tuple(
        forward.model_copy(update={"listen": InheritedListen(descriptors[f"forward {place}"])})
        for place, forward in enumerate(settings.forwards, 1)
    )
    return settings.model_copy(
        update={"listeners": settings.listeners.model_copy(update=listeners), "forwards": forwards}
    )


@dataclass(slots=True)
class _Listener:
    """`shared`: the one socket of all workers; without it `own` has one for each, and `address` is where they are."""

    address: SocketAddress | None
    shared: socket.socket | None = None
    own: dict[int, socket.socket] = field(default_factory=dict[int, socket.socket])
    unix_path: str = ""


class Listening:
    """All sockets of all workers. `bind` before anything runs; raises UsageError, and then has taken nothing."""

    def __init__(self, settings: NodeSettings, workers: int) -> None:
        self._wanted = workers_listen(settings)
        self._workers = workers
        self._listeners: dict[str, _Listener] = {}
        self.balancing: Balancing | None = None

    def bind(self) -> None:
        try:
            for name, listen in self._wanted.items():
                try:
                    self._open(name, listen)
                except UsageError as error:
                    raise ListenerFailed(error, setting_of(name)) from error
        except BaseException:
            self.unbind()
            raise
        if BALANCES and self._workers > 1:
            self.balancing = Balancing(self._workers)

    def _open(self, name: str, listen: Listen) -> None:
        if not isinstance(listen, TcpListen) or not SPREADS:
            sock = open_listener(listen, setting_of(name))
            listener = self._listeners[name] = _Listener(bound_address(sock), sock)
            if isinstance(listen, UnixListen):
                listener.unix_path = listen.path
            return
        if listen.address.port:
            # somebody else's socket with SO_REUSEPORT, a second node's, would share its connections with us unseen
            bind_listener(listen.address).close()
        first = bind_listener(listen.address, reuse_port=True)
        listener = self._listeners[name] = _Listener(bound_address(first), own={1: first})
        for number in range(2, self._workers + 1):
            self._open_own(listener, number)

    @staticmethod
    def _open_own(listener: _Listener, number: int) -> None:
        assert listener.address is not None  # noqa: S101 -- only Unix sockets have none
        listener.own[number] = bind_listener(listener.address, reuse_port=True)

    def descriptors(self, number: int) -> dict[str, int]:
        """A worker's set, by name; opened again if it was given up. Raises UsageError when that fails."""
        found: dict[str, int] = {}
        for name, listener in self._listeners.items():
            if listener.shared is None and number not in listener.own:
                self._open_own(listener, number)
            found[name] = (listener.shared or listener.own[number]).fileno()
        return found

    def give_up(self, number: int) -> None:
        """Nobody will accept on this set for a while: its queues are reset, and new connections go to the others."""
        for listener in self._listeners.values():
            sock = listener.own.pop(number, None)
            if sock is not None:
                sock.close()
        if self.balancing is not None:
            self.balancing.give_up(number)

    def views(self) -> tuple[ListenerView, ...]:
        return tuple(
            ListenerView(name=name, address=str(listener.address or listener.unix_path))
            for name, listener in self._listeners.items()
        )

    def unbind(self) -> None:
        """Harmless when repeated."""
        for listener in self._listeners.values():
            for sock in (listener.shared, *listener.own.values()):
                if sock is not None:
                    sock.close()
            if listener.unix_path:
                remove_socket(listener.unix_path)
        self._listeners.clear()
        if self.balancing is not None:
            self.balancing.close()
            self.balancing = None
