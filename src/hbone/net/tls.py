"""TLS on a non-blocking socket: the steps of a handshake, reads and writes on the caller's memory, close.

Nothing here waits (`handshake` does): `read_into` and `write` say WANT when the socket is not ready,
and the caller watches `fd`. Every byte of every tunnel passes through these two, so they do nothing but call OpenSSL;
`PortableTlsStream` does the same through pyOpenSSL's public API, where the binding lacks what we need.
"""

import os
import socket
from typing import Any, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.identity.verify import NoCertificate, PeerSide
from hbone.net import tlsbinding
from hbone.net.tlsalert import NoCommonProtocol, failure_from, lost
from hbone.net.tlscontext import ALPN, Judgement, TlsContexts

WANT: Final = -1
READ_BUFFER_BYTES = 320 * 1024  # one loop turn's reads (256 KiB) and then some

_WANT_READ = tlsbinding.WANT_READ
_WANT_WRITE = tlsbinding.WANT_WRITE


class ReadBuffer:
    """Memory that TLS reads go into: `view[offset:]` after `read_into(buffer, offset)`. One serves a whole loop."""

    __slots__ = ("memory", "pointer", "size", "view")

    def __init__(self, size: int = READ_BUFFER_BYTES) -> None:
        self.memory = bytearray(size)
        self.size = size
        self.view = memoryview(self.memory)
        self.pointer: Any = tlsbinding.ffi.from_buffer(self.memory) if tlsbinding.NATIVE else None


class TlsStream:
    """One mutually authenticated TLS 1.3 connection. Made by `handshake`.

    `peer` is the identity that the far end proved, `peer_chain` the certificates it did it with (leaf first).
    `contexts` is the generation of our own certificate and roots that it was made with.
    """

    __slots__ = (
        "_read",
        "_ssl",
        "_write",
        "cipher",
        "connection",
        "contexts",
        "fd",
        "group",
        "peer",
        "peer_chain",
        "side",
        "sock",
        "tls_version",
    )

    peer: SpiffeId
    peer_chain: tuple[x509.Certificate, ...]
    tls_version: str
    cipher: str
    group: str

    def __init__(self, sock: socket.socket, contexts: TlsContexts, side: PeerSide) -> None:
        """`side` is the peer's. Use `handshake.accept` or `handshake.connect`."""
        self.sock = sock
        self.fd = sock.fileno()
        self.contexts = contexts
        self.side = side
        self.connection = SSL.Connection(contexts.server if side is PeerSide.CLIENT else contexts.client, sock)
        if side is PeerSide.CLIENT:
            self.connection.set_accept_state()
        else:
            self.connection.set_connect_state()
        self._ssl = tlsbinding.pointer_of(self.connection)
        self._read: Any = getattr(tlsbinding.lib, "SSL_read", None)
        self._write: Any = getattr(tlsbinding.lib, "SSL_write", None)

    # --- handshake ------------------------------------------------------------------------------------------

    def step(self, judgement: Judgement) -> int:
        """Go on with the handshake: 0 when done, else what to wait for."""
        lib = tlsbinding.lib
        lib.ERR_clear_error()  # SSL_get_error looks at the thread's queue, whoever filled it
        result = lib.SSL_do_handshake(self._ssl)
        if result == 1:
            return 0
        error = lib.SSL_get_error(self._ssl, result)
        if error in {_WANT_READ, _WANT_WRITE}:
            return int(error)
        failure = self._failure(error)
        raise judgement.error or failure

    def finish(self, judgement: Judgement) -> None:
        """What must hold before a byte is exchanged; raises otherwise."""
        connection = self.connection
        if judgement.error is not None:
            raise judgement.error
        if judgement.peer is None:
            raise NoCertificate(
                f"the {self.side.value} presented no certificate in this handshake",
                why="it resumed an earlier session, which we do not offer",
                fix="switch session resumption off at the peer",
            )
        if connection.get_alpn_proto_negotiated() != ALPN:
            raise NoCommonProtocol(
                f"the {self.side.value} did not agree on h2",
                why="it uses no ALPN; HBONE is HTTP/2 over TLS",
                fix="check that it is an HBONE proxy, and the port its HBONE port",
            )
        self.peer = judgement.peer
        self.peer_chain = judgement.chain
        self.tls_version = connection.get_protocol_version_name()
        self.cipher = connection.get_cipher_name() or ""
        self.group = connection.get_group_name() or ""

    # --- bytes ----------------------------------------------------------------------------------------------

    def read_into(self, buffer: ReadBuffer, offset: int) -> int:
        """Bytes read to `buffer.view[offset:]` (at most one record, 16 KiB), 0 after the peer's goodbye, or WANT.

        Raises TlsFailure: PeerRefusedUs with the peer's alert, ConnectionLost when it ended without a goodbye.
        """
        count: int = self._read(self._ssl, buffer.pointer + offset, buffer.size - offset)
        return count if count > 0 else self._stopped(count)

    def write(self, view: memoryview) -> int:
        """Bytes taken (all), or WANT: then the same bytes must be given again. `view` must not be empty."""
        count: int = self._write(self._ssl, tlsbinding.ffi.from_buffer(view), len(view))
        if count > 0:
            return count
        if self._stopped(count) == WANT:
            return WANT
        raise lost("it said goodbye while we were writing")

    def _stopped(self, result: int) -> int:
        """Why a read or write moved nothing: WANT, 0 for a goodbye, or raises."""
        error = tlsbinding.lib.SSL_get_error(self._ssl, result)
        if error in {_WANT_READ, _WANT_WRITE}:
            return WANT
        if error == tlsbinding.ZERO_RETURN:
            return 0
        raise self._failure(error)

    def _failure(self, error: int) -> HboneError:
        """The reason for an SSL_get_error other than WANT; empties OpenSSL's queue."""
        number = tlsbinding.ffi.errno
        reasons = tlsbinding.drain_reasons()
        if error == tlsbinding.SYSCALL and not reasons:
            return lost(os.strerror(number) if number else "the connection ended without a TLS goodbye")
        if error == tlsbinding.ZERO_RETURN:
            return lost("it said goodbye during the handshake")
        return failure_from(reasons)

    # --- end ------------------------------------------------------------------------------------------------

    def shutdown(self) -> None:
        """Send TLS's goodbye (close_notify) if the socket takes it; not waiting for the peer's."""
        try:
            self.connection.shutdown()
        except SSL.Error:
            pass  # the connection is past saying anything

    def close(self) -> None:
        """Close the socket. The caller has taken its reader and writer off the loop."""
        self.sock.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({getattr(self, 'peer', 'unproven')}, fd {self.fd})"


class PortableTlsStream(TlsStream):
    """The same by pyOpenSSL's public API alone; without the judge in the handshake, the peer is judged after it."""

    __slots__ = ()

    def step(self, judgement: Judgement) -> int:
        try:
            self.connection.do_handshake()
        except SSL.WantReadError:
            return _WANT_READ
        except SSL.WantWriteError:
            return _WANT_WRITE
        except SSL.Error as error:
            raise judgement.error or _portable_failure(error) from error
        if judgement.peer is None and judgement.error is None:
            judgement.judge_presented(self)
        return 0

    def der(self) -> bytes:
        return b"".join(certificate.public_bytes(Encoding.DER) for certificate in self.certificates())

    def certificates(self) -> list[x509.Certificate]:
        """What the peer presented."""
        leaf = self.connection.get_peer_certificate(as_cryptography=True)
        chain = self.connection.get_peer_cert_chain(as_cryptography=True) or []  # a server's is without the leaf
        return [leaf, *(certificate for certificate in chain if certificate != leaf)] if leaf else []

    def read_into(self, buffer: ReadBuffer, offset: int) -> int:
        try:
            return self.connection.recv_into(buffer.view[offset:])
        except (SSL.WantReadError, SSL.WantWriteError):
            return WANT
        except SSL.ZeroReturnError:
            return 0
        except SSL.Error as error:
            raise _portable_failure(error) from error

    def write(self, view: memoryview) -> int:
        try:
            return self.connection.send(view)
        except (SSL.WantReadError, SSL.WantWriteError):
            return WANT
        except SSL.Error as error:
            raise _portable_failure(error) from error


def _portable_failure(error: SSL.Error) -> HboneError:
    if isinstance(error, SSL.SysCallError):
        number = error.args[0] if error.args else -1
        return lost(os.strerror(number) if number > 0 else "the connection ended without a TLS goodbye")
    if isinstance(error, SSL.ZeroReturnError):
        return lost("it said goodbye")
    queue = cast("list[tuple[str, str, str]]", error.args[0] if error.args else [])  # (library, function, reason)
    return failure_from([reason for _, _, reason in queue])
