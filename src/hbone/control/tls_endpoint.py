"""A control plane on another machine: ours, or a real istiod. The client's side of port 15012.

Everything that can change on disk is read when it is needed: the roots for each connection, the token for each call.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Final

from cryptography import x509
from grpclib.client import Channel
from grpclib.config import Configuration
from grpclib.protocol import H2Protocol

from hbone.addr import HostPort, InvalidAddress, SocketAddress, parse_authority
from hbone.config.tokenfile import names_a_file, shown
from hbone.control.serving import load_chain
from hbone.errors import UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import NotAnSvid, X509Svid, spiffe_id_of
from hbone.values import dataclass

SYSTEM: Final = "SYSTEM"
"""In place of roots: those of the operating system."""

DEFAULT_PORT: Final = 15012
_SCHEME: Final = "https://"
_MAX_TOKEN_BYTES: Final = 64 * 1024


class InvalidEndpoint(UsageError):
    """Settings that lead to no control plane."""


@dataclass(frozen=True, slots=True)
class Roots:
    """Who vouches for the control plane: a PEM file, PEM text, or SYSTEM."""

    source: str

    def pem(self) -> str | None:
        """The certificates, None for the operating system's. Raises InvalidEndpoint."""
        if self.source == SYSTEM:
            return None
        if "-----BEGIN" in self.source:
            return self.source
        try:
            return Path(self.source).read_text()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise InvalidEndpoint(
                f"the control plane's roots {self.source} cannot be read",
                why=why or str(error),
                fix="name a PEM file, PEM text, or SYSTEM",
            ) from error


@dataclass(frozen=True, slots=True)
class BearerToken:
    """A token from a file, which is read for each call because somebody renews it; or the token itself."""

    source: str

    def value(self) -> str:
        """Raises InvalidEndpoint; never quotes a token."""
        try:
            content = Path(self.source).read_bytes()
        except (OSError, ValueError) as error:  # a name that is too long, or has a zero in it
            if not names_a_file(self.source) and not isinstance(error, PermissionError):
                return self.source.strip()
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise InvalidEndpoint(f"the token file {shown(self.source)} cannot be read", why=why or "") from error
        try:
            token = content[:_MAX_TOKEN_BYTES].decode("ascii").strip()
        except ValueError as error:
            raise InvalidEndpoint(f"{self.source} holds no token", why="it is not text") from error
        if not token:
            raise InvalidEndpoint(f"the token file {self.source} is empty", fix="check what should write it")
        return token


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsEndpoint:
    """Where a control plane is and what it takes to be let in.

    The control plane is known by `identity`, a SPIFFE ID, wherever it is, or by one that `also` gives, for a mesh that
    has several names; or, without one, by the host name of its address or one of `names`. `certificate` gives ours to
    show, None for none. `authorization` is the value of that header, made for each call.
    """

    host: str
    port: int
    roots: Roots
    identity: SpiffeId | None = None
    also: Callable[[], frozenset[SpiffeId]] = frozenset
    names: tuple[str, ...] = ()
    authorization: Callable[[], str] | None = field(default=None, repr=False)
    certificate: Callable[[], X509Svid | None] | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)

    def channel(self) -> Channel:
        # dead paths are noticed: a stream may be silent for days
        config = Configuration(
            _keepalive_time=30.0,
            _keepalive_timeout=10.0,
            _keepalive_permit_without_calls=True,
            _http2_max_pings_without_data=0,
        )
        return _NamedChannel(self, config)

    def metadata(self) -> Mapping[str, str]:
        given = {"authorization": self.authorization()} if self.authorization is not None else {}
        return {**self.headers, **given}

    @property
    def remedy(self) -> str:
        return "check that one runs there, and that the address and port are right"

    def context(self) -> ssl.SSLContext:
        """Raises InvalidEndpoint. Names are checked by the channel, which knows several."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        pem = self.roots.pem()
        try:
            if pem is None:
                context.load_default_certs(ssl.Purpose.SERVER_AUTH)
            else:
                context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidEndpoint(
                "the control plane's roots are no PEM certificates", why=str(error)[:200], fix="check the file"
            ) from error
        svid = self.certificate() if self.certificate is not None else None
        if svid is not None:
            load_chain(context, svid.chain_pem(), svid.key)
        return context

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _NamedChannel(Channel):
    """Accepts a server by the endpoint's identity, or by any of its names; the address's own is the first."""

    def __init__(self, endpoint: TlsEndpoint, config: Configuration) -> None:
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # grpclib names ssl only where it is there
            endpoint.host, endpoint.port, ssl=endpoint.context(), config=config
        )
        self._endpoint = endpoint

    async def _create_connection(self) -> H2Protocol:
        if self._endpoint.identity is not None:
            return await self._connect_to(self._endpoint.identity)
        failure: ssl.CertificateError | None = None
        for name in (self._endpoint.host, *self._endpoint.names):
            context = self._endpoint.context()
            context.check_hostname = True
            try:
                return (await self._connect(context, name))[1]
            except ssl.SSLCertVerificationError as error:
                if error.verify_code not in _MISMATCHES:
                    raise
                failure = failure or error
        assert failure is not None  # noqa: S101 - there is at least one name
        raise failure

    async def _connect_to(self, identity: SpiffeId) -> H2Protocol:
        transport, protocol = await self._connect(self._endpoint.context(), self._endpoint.host)
        leaf: bytes = transport.get_extra_info("ssl_object").getpeercert(True)
        try:
            found = spiffe_id_of(x509.load_der_x509_certificate(leaf))
            if found == identity or found in self._endpoint.also():
                return protocol
            why = f"it is {found}, not {identity}"
        except (NotAnSvid, ValueError) as error:
            why = str(error)
        transport.close()
        raise ConnectionError(f"what answers there is no control plane of this mesh: {why}")

    async def _connect(self, context: ssl.SSLContext, name: str) -> tuple[asyncio.Transport, H2Protocol]:
        loop = asyncio.get_running_loop()
        return await loop.create_connection(
            self._protocol_factory, self._endpoint.host, self._endpoint.port, ssl=context, server_hostname=name
        )


_MISMATCHES: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def parse_control_address(text: str) -> tuple[str, int]:
    """Host and port of `https://HOST:PORT`, scheme and port optional; raises InvalidEndpoint."""
    fix = "write HOST:PORT, for example istiod.istio-system.svc:15012"
    rest = text.removeprefix(_SCHEME).rstrip("/")
    if "://" in rest:
        raise InvalidEndpoint(f"{text[:80]!r} is not the address of a control plane", why="it takes TLS only", fix=fix)
    bare_ipv6 = rest.count(":") > 1 and not rest.startswith("[")
    if bare_ipv6 or not rest:
        raise InvalidEndpoint(f"{text[:80]!r} is not the address of a control plane", fix=fix)
    has_port = rest.rpartition("]")[2].startswith(":") if rest.startswith("[") else ":" in rest
    try:
        found = parse_authority(rest if has_port else f"{rest}:{DEFAULT_PORT}")
    except InvalidAddress as error:
        raise InvalidEndpoint(error.what, why=error.why, fix=fix) from error
    match found:
        case SocketAddress(ip=ip, port=port):
            return str(ip), port
        case HostPort(host=host, port=port):
            return host, port
