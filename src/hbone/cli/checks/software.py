"""Checks of what hbone stands on: Python, OpenSSL, the event loop."""

import datetime
import platform
import select
import sys
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.backends.openssl import backend
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from hbone import native
from hbone.cli.checks.finding import Finding, failure, ok, warning

OLDEST_PYTHON: Final = (3, 11)
HYBRID: Final = "X25519MLKEM768"


def python() -> Iterator[Finding]:
    number = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield failure("python", number, means="hbone needs 3.11 or newer", fix="install a newer Python")
    elif sys.implementation.name != "cpython":
        yield warning(
            "python",
            f"{sys.implementation.name} {number}",
            means="only CPython is tried",
            fix="use CPython if you can",
        )
    elif native.plain_interpreter():
        yield warning(
            "python",
            f"CPython {number}, built without optimizations",
            means="everything works, with 5 to 10 % more CPU for each request and connection",
            fix="use your distribution's Python, or build with --enable-optimizations "
            "(PYTHON_CONFIGURE_OPTS='--enable-optimizations --with-lto' pyenv install)",
        )
    else:
        yield ok("python", f"CPython {number}")


def tls() -> Iterator[Finding]:
    """A handshake with ourselves in memory: what it agreed on is what tunnels will have."""
    library = backend.openssl_version_text()
    try:
        protocol, cipher, group = _handshake()
    except (SSL.Error, ValueError, AttributeError) as error:
        yield failure(
            "tls",
            f"{library}: no TLS 1.3 handshake ({type(error).__name__})",
            means="no tunnel can be set up",
            fix="reinstall cryptography and pyopenssl: pip install --force-reinstall cryptography pyopenssl",
        )
        return
    text = f"{library}: {protocol}, {cipher}, {group or 'unknown group'}"
    if group == HYBRID:
        yield ok("tls", text)
    else:
        yield warning(
            "tls",
            text,
            means=f"keys are not exchanged by {HYBRID}: traffic recorded today could be read by a quantum computer",
            fix="upgrade cryptography (its OpenSSL should be 3.5 or newer)",
        )


def fast_tls() -> Iterator[Finding]:
    from hbone.net import tlsbinding

    if tlsbinding.NATIVE:
        yield ok("fast TLS path", "reads and writes on our own buffers")
    else:
        yield warning(
            "fast TLS path",
            "this pyOpenSSL lacks some bindings",
            means="bulk transfers cost about a tenth more CPU, and refused peers see a less exact TLS alert",
            fix="install the pyOpenSSL version of the requirements",
        )


def event_loop() -> Iterator[Finding]:
    if hasattr(select, "epoll"):
        yield ok("event loop", "asyncio on one epoll set with the sockets that carry traffic")
    elif find_spec("uvloop") is None:
        yield warning(
            "event loop",
            "asyncio",
            means="everything works, with less throughput",
            fix="pip install uvloop",
        )
    else:
        yield ok("event loop", f"uvloop {version('uvloop')}")


def aes() -> Iterator[Finding]:
    """AES in hardware; where the machine does not tell, nothing is said."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), None)
    if flags and "aes" not in flags:
        yield warning(
            "AES",
            "not in hardware",
            means="encryption will use most of the CPU in bulk transfers",
            fix="in a virtual machine, pass the host's CPU through",
        )


def _handshake() -> tuple[str, str, str | None]:
    """TLS version, cipher and group that client and server agree on with the library's defaults."""
    key, certificate = _self_signed()
    server_context = SSL.Context(SSL.TLS_SERVER_METHOD)
    server_context.use_privatekey(key)
    server_context.use_certificate(certificate)
    client_context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    for context in (server_context, client_context):
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
    server, client = SSL.Connection(server_context, None), SSL.Connection(client_context, None)
    server.set_accept_state()
    client.set_connect_state()
    for _ in range(3):
        _step(client, server)
        _step(server, client)
    protocol, cipher = client.get_protocol_version_name(), client.get_cipher_name()
    if cipher is None:
        raise ValueError("the handshake did not end")
    return protocol, cipher, client.get_group_name()


def _step(mover: SSL.Connection, other: SSL.Connection) -> None:
    try:
        mover.do_handshake()
    except SSL.WantReadError:
        pass
    try:
        other.bio_write(mover.bio_read(1 << 16))
    except SSL.WantReadError:
        pass


def _self_signed() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer_name=name,
        subject_name=name,
        public_key=key.public_key(),
        serial_number=1,
        not_valid_before=start,
        not_valid_after=start + datetime.timedelta(days=36500),
    )
    return key, builder.sign(key, hashes.SHA256())
