"""The first connection to a control plane: its root is known by a hash alone, so it is taken from what it shows.

Nothing is believed of this connection but that one certificate, whose hash is the pin; the next connection is verified
with it as the only root.
"""

import asyncio
import socket
import struct
from hashlib import sha256
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from hbone.errors import HboneError, Unreachable

TIMEOUT_S: Final = 10.0


class WrongPin(HboneError):
    """What answers is not the control plane that the token is of."""

    exit_code = 3


async def pinned_root(host: str, port: int, pin: bytes) -> x509.Certificate:
    """The certificate of the server's chain whose SHA-256 is `pin`; raises Unreachable, WrongPin."""
    return await asyncio.to_thread(_pinned_root, host, port, pin)


def _pinned_root(host: str, port: int, pin: bytes) -> x509.Certificate:
    try:
        chain = _presented(host, port)
    except SSL.Error as error:
        raise Unreachable(
            f"what answers at {host}:{port} is no control plane", why="it does not speak TLS", fix="check the address"
        ) from error
    except OSError as error:
        raise Unreachable(
            f"the control plane at {host}:{port} cannot be reached",
            why=error.strerror or str(error),
            fix="check the address in the token (`hbone token create --address`), and firewalls on the way",
        ) from error
    for certificate in chain:
        if sha256(certificate.public_bytes(Encoding.DER)).digest() == pin:
            return certificate
    raise WrongPin(
        f"what answers at {host}:{port} is not the control plane that this token is of",
        why="none of the certificates it shows has the token's fingerprint",
        fix="check who answers there; create a new token if the root was rotated meanwhile",
    )


def _presented(host: str, port: int) -> list[x509.Certificate]:
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([b"h2"])
    with socket.create_connection((host, port), timeout=TIMEOUT_S) as sock:
        sock.setblocking(True)  # with Python's own timeout it would not block, which OpenSSL takes for "try again"
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(TIMEOUT_S), 0))
        connection = SSL.Connection(context, sock)
        connection.set_connect_state()
        try:
            connection.do_handshake()
        except (SSL.WantReadError, SSL.SysCallError) as error:
            raise OSError(None, "it does not answer") from error
        return list(connection.get_peer_cert_chain(as_cryptography=True) or ())
