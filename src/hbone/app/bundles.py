"""Federation as one control plane has it: its own bundle for others, and theirs for its nodes."""

import socket
from contextlib import AsyncExitStack
from typing import Final

from hbone.addr import SocketAddress
from hbone.admin.messages import JSON, Answer, Request
from hbone.admin.routes import READ, Route, Routes
from hbone.admin.server import HttpLimits
from hbone.app.doors import House, server_names
from hbone.app.options import open_listener
from hbone.ca.generations import ANNOUNCED_FOR
from hbone.config.federated import FederatedDomain
from hbone.control.bundle_fetch import Endpoint, SpiffeEndpoint, WebEndpoint
from hbone.control.nodes import control_identity
from hbone.control.partner import Partner
from hbone.control.serving import AnonymousContexts, FileContexts
from hbone.control.tls_listener import TlsListener

LIMITS: Final = HttpLimits(max_connections=512, answer_timeout_s=10.0)


class BundleDoor:
    """The endpoint where other trust domains fetch the bundle of this one (SPIFFE Federation §5), if one is set."""

    def __init__(self, house: House) -> None:
        """Takes the port; raises UsageError."""
        listen = house.settings.listeners.bundles
        self._house = house
        self._sock = None if listen is None else open_listener(listen, "listeners.bundles")
        self._listener: TlsListener | None = None

    @property
    def address(self) -> SocketAddress | str:
        """Where it listens; empty where it does not."""
        return "" if self._listener is None else self._listener.address

    @property
    def announce_s(self) -> float:
        """How long a new root must be in the bundle before it signs, so that others have fetched it."""
        return 0.0 if self._sock is None else ANNOUNCED_FOR * float(self._house.ca.place.refresh_hint_s)

    def lines(self) -> list[str]:
        """For the person who started it."""
        return [f"  bundle endpoint  https://{self.address}/"] if self._listener is not None else []

    async def open(self, undo: AsyncExitStack) -> None:
        """Serve until `undo`. Raises UsageError for files that do not fit."""
        if self._sock is None:
            return
        from hbone.admin.http import HttpServer  # the HTTP stack: few control planes need it here

        contexts = self._contexts(self._sock)
        contexts.current()  # a CA that has ended is told now, and not to the first who asks
        http = HttpServer(None, Routes([self._route()]), LIMITS)
        await http.start()
        undo.push_async_callback(http.close)
        listener = self._listener = TlsListener(http.connection, contexts.current, name="bundles")
        listener.start(self._sock)
        undo.push_async_callback(listener.close)

    def close(self) -> None:
        """Give the port back. Harmless when repeated."""
        if self._sock is not None:
            self._sock.close()

    def _contexts(self, sock: socket.socket) -> AnonymousContexts | FileContexts:
        ca, settings = self._house.ca, self._house.settings.bundle_endpoint
        if settings.certificate is not None and settings.certificate_key is not None:
            return FileContexts(settings.certificate, settings.certificate_key)
        return AnonymousContexts(
            lambda: ca.authorities.signing,
            lambda: ca.trust.bundle,
            server_names(self._house.settings, sock),
            clock=ca.place.clock,
            rng=ca.place.rng,
        )

    def _route(self) -> Route:
        ca = self._house.ca

        def answer(_: Request) -> Answer:
            return Answer(content_type=JSON, body=ca.document().encode())

        return Route(
            path="/", help="the SPIFFE bundle of this trust domain", methods=READ, parameters=(), answer=answer
        )


def partner_of(settings: FederatedDomain) -> Partner:
    """As the operator named it."""
    aliases = frozenset(settings.trust_domain_aliases)
    return Partner(domain=settings.trust_domain, aliases=aliases, endpoint=_endpoint(settings), file=settings.bundle)


def _endpoint(settings: FederatedDomain) -> Endpoint | None:
    if settings.url is None:
        return None
    if settings.profile == "https_web":
        return WebEndpoint(url=settings.url, roots=settings.roots)
    identity = settings.endpoint_spiffe_id or control_identity(settings.trust_domain)
    return SpiffeEndpoint(url=settings.url, identity=identity)
