"""Fetching a bundle document over real TLS: who is believed, and what a server can draw out."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.addr import SocketAddress
from hbone.config.urls import HttpsUrl
from hbone.control.bundle_fetch import SpiffeEndpoint, WebEndpoint, fetch
from hbone.control.https_get import FetchFailed, Limits, https_get
from hbone.errors import HboneError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import X509Svid
from hbone.identity.verify import Expired, ForeignTrustDomain, UnexpectedIdentity, UntrustedRoot
from hbone.net.clock import SystemClock
from hbone.net.sockets import bind_listener
from tests.support.bundleserver import BundleServer, Say, bundle_server, context_of, raw, saying
from tests.support.pki import SpiffeCA

Y = TrustDomain("y.test")
ENDPOINT = "spiffe://y.test/bundles"
DOCUMENT = b'{"keys": []}'
CA = SpiffeCA(name="y")
TRUSTED = CA.bundle(Y)


async def by_identity(server: BundleServer, bundle: TrustBundle = TRUSTED, identity: str = ENDPOINT) -> bytes:
    endpoint = SpiffeEndpoint(url=HttpsUrl.parse(server.url), identity=SpiffeId.parse(identity))
    return await fetch(endpoint, bundle, SystemClock())


async def test_an_endpoint_is_known_by_its_spiffe_id_whatever_its_address() -> None:
    async with bundle_server(context_of(CA.intermediate().svid(ENDPOINT)), saying(DOCUMENT)) as server:
        assert await by_identity(server) == DOCUMENT
        assert server.requests[0].startswith(b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("svid", "error"),
    [
        (CA.svid("spiffe://y.test/another"), UnexpectedIdentity),
        (CA.svid("spiffe://x.test/bundles"), ForeignTrustDomain),
        (SpiffeCA(name="y").svid(ENDPOINT), UntrustedRoot),
        (CA.svid(ENDPOINT, ends_h=-0.01), Expired),
    ],
)
async def test_an_endpoint_that_is_not_the_wanted_one_is_not_even_asked(
    svid: X509Svid, error: type[HboneError]
) -> None:
    async with bundle_server(context_of(svid), saying(DOCUMENT)) as server:
        with pytest.raises(error):
            await by_identity(server)
        assert server.requests == []


async def test_an_endpoint_of_the_web_is_known_by_its_name_to_the_roots_that_were_given(tmp_path: Path) -> None:
    roots, others = tmp_path / "roots.pem", tmp_path / "others.pem"
    roots.write_bytes(CA.cert.public_bytes(Encoding.PEM))
    others.write_bytes(SpiffeCA(name="other").cert.public_bytes(Encoding.PEM))
    svid = CA.svid(ENDPOINT, dns=("localhost",))
    async with bundle_server(context_of(svid), saying(DOCUMENT)) as server:
        url = HttpsUrl.parse(f"https://localhost:{server.port}/b?c=d")
        assert await fetch(WebEndpoint(url=url, roots=roots), TRUSTED, SystemClock()) == DOCUMENT
        assert server.requests[0].startswith(b"GET /b?c=d HTTP/1.1\r\nhost: localhost:")
        by_address = HttpsUrl.parse(server.url)
        for endpoint in (
            WebEndpoint(url=url, roots=others),
            WebEndpoint(url=url),  # the system's roots
            WebEndpoint(url=by_address, roots=roots),  # it has no such name
        ):
            with pytest.raises(FetchFailed, match="is not trusted"):
                await fetch(endpoint, TRUSTED, SystemClock())
        with pytest.raises(FetchFailed, match="cannot be used"):
            await fetch(WebEndpoint(url=url, roots=tmp_path / "none.pem"), TRUSTED, SystemClock())
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("say", "said"),
    [
        (
            saying(b"", "302 Found", "location: https://elsewhere.test/\r\n"),
            "elsewhere.test.*redirects are not followed",
        ),
        (saying(b"", "301 Moved", "location: /other\r\n"), "redirects are not followed"),
        (saying(b"no", "404 Not Found"), "answers 404"),
        (saying(b"no", "204 No Content"), "answers 204"),
        (saying(b"x" * 5000), "more than 4096 bytes"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000), "more than 4096 bytes"),
        (raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf"), "whole|does not answer in HTTP"),
        (raw(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000), "does not answer in HTTP"),
        (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), "does not answer in HTTP"),
        (raw(), "whole|does not answer in HTTP"),
        (raw(*[b"H"] * 50, pause_s=0.1), "no whole answer within 1 s"),
        (raw(b"HTTP/1.1 200 OK\r\n\r\n", *[b"{"] * 50, pause_s=0.1), "no whole answer within 1 s"),
    ],
)
async def test_an_answer_that_is_no_document_costs_no_more_than_its_limits(say: Say, said: str) -> None:
    async with bundle_server(context_of(CA.svid(ENDPOINT)), say) as server:
        with pytest.raises(FetchFailed, match=said):
            limits = Limits(deadline_s=1, body_bytes=4096)
            await https_get(HttpsUrl.parse(server.url), _anybody(), limits=limits)
        assert len(server.requests) <= 1


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello\r\n")
    await writer.drain()
    writer.close()


async def test_who_does_not_listen_or_speak_tls_is_told_apart() -> None:
    async with await asyncio.start_server(_greet, "127.0.0.1", 0) as nobody:
        url = HttpsUrl.parse(f"https://127.0.0.1:{nobody.sockets[0].getsockname()[1]}/")
        with pytest.raises(FetchFailed, match="no TLS with 127"):
            await https_get(url, _anybody())
    with pytest.raises(FetchFailed, match="cannot be reached"):
        await https_get(url, _anybody())


async def test_a_handshake_that_never_ends_ends_at_the_deadline() -> None:
    with bind_listener(SocketAddress.of(("127.0.0.1", 0))) as silent:
        url = HttpsUrl.parse(f"https://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(FetchFailed, match="no whole answer within"):
            await https_get(url, _anybody(), limits=Limits(deadline_s=0.3))


def _anybody() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
