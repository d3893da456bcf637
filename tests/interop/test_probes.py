"""Strangers at our inbound, one connection each: what they are answered, what our log says, and who is not disturbed.

The strangers are Python's `ssl` and the `h2` package. One node serves all of them, and beside each of them an honest
tunnel goes on working.
"""

import contextlib
import random
import socket
import ssl
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from hbone.addr import SocketAddress
from hbone.bench.pki import Identity
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.identity.spiffe import SpiffeId, parse_trust_domain
from tests.interop.certificates import MeshPki
from tests.interop.pairs import SERVER
from tests.support.node import Node, dedicated, mesh_file
from tests.support.peers import Answer, HboneProbe, Headers, Hello, connect_headers
from tests.support.pki import BOTH_USAGES
from tests.support.targets import TcpServer, echo

pytestmark = pytest.mark.interop

CLIENT_AUTH, SERVER_AUTH = BOTH_USAGES
HANDSHAKE_TIMEOUT_S = 1.0
NO_ERROR, PROTOCOL_ERROR, ENHANCE_YOUR_CALM = 0, 1, 11


class Scene:
    """A node, the server behind it, and an honest peer with an open stream."""

    def __init__(self, node: Node, tunnel: SocketAddress, target: TcpServer, *, pki: MeshPki, foreign: MeshPki) -> None:
        self.node = node
        self.target = target
        self.pki = pki
        self.foreign = foreign
        self.tunnel = tunnel
        self.honest = HboneProbe(self.tunnel, self.hello())
        self._stream = self.honest.request(connect_headers(target.address))
        self._echoed = 0
        assert self.honest_stream_works()

    def hello(self, identity: Identity | None = None) -> Hello:
        return Hello(identity=identity or self.pki.identity("shop", "client"))

    def probe(self) -> HboneProbe:
        """Another honest peer, which is about to say something strange."""
        return HboneProbe(self.tunnel, self.hello())

    def ask(self, headers: Headers, *, end_stream: bool = False) -> Answer:
        """The whole answer to one request."""
        with self.probe() as probe:
            return probe.wait_end(probe.request(headers, end_stream=end_stream))

    def honest_stream_works(self) -> bool:
        self.honest.send(self._stream, b"still there?")
        self._echoed += len(b"still there?")
        return len(self.honest.wait_bytes(self._stream, self._echoed)) == self._echoed

    @contextlib.contextmanager
    def one_line(self, *says: str) -> Generator[None]:
        """What happens inside writes one access line, with these words, and disturbs nobody."""
        before, accepted = len(self.node.access()), self.target.accepted
        yield
        lines = self.node.wait_access(before + 1)[before:]
        assert len(lines) == 1, lines
        for words in says:
            assert words in lines[0].error, lines
        assert self.target.accepted == accepted
        assert self.honest_stream_works()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("probes")
    pki, foreign = MeshPki(directory / "pki"), MeshPki(directory / "foreign", parse_trust_domain("other.local"))
    ports = Ports(random.Random())
    host = ports.free_host()
    tunnel = ports.free(host)
    mesh = mesh_file(directory, {SERVER: host}, hbone_port=tunnel.port)
    settings = dedicated(SERVER, ca=pki.directory, mesh=mesh, inbound=str(tunnel))
    settings["timeouts"] = {"handshake_timeout_s": HANDSHAKE_TIMEOUT_S}
    with Processes(directory) as processes, echo(str(host)) as target, Node(settings, processes) as node:
        scene = Scene(node, tunnel, target, pki=pki, foreign=foreign)
        yield scene
        scene.honest.tls.close()


# --- requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    """A request that is refused. `status` None: no answer but the reset."""

    headers: Callable[[Scene], list[tuple[str, str]]]
    says: str
    status: int | None = None
    reset: int | None = None


def to(authority: str) -> Callable[[Scene], list[tuple[str, str]]]:
    return lambda _: connect_headers(authority)


def with_(*more: tuple[str, str]) -> Callable[[Scene], list[tuple[str, str]]]:
    return lambda scene: [*connect_headers(scene.target.address), *more]


def request(method: str) -> Callable[[Scene], list[tuple[str, str]]]:
    return lambda scene: [
        (":method", method),
        (":scheme", "https"),
        (":path", "/"),
        (":authority", str(scene.target.address)),
    ]


MALFORMED = {
    "no method": Odd(headers=lambda target: [(":authority", str(target))], says="no :method"),
    "no authority": Odd(headers=lambda _: [(":method", "CONNECT")], says="without :authority"),
    "a CONNECT with scheme and path": Odd(headers=request("CONNECT"), says=":scheme or :path"),
    "an extended CONNECT": Odd(
        headers=lambda scene: [(":protocol", "connect-tcp"), *request("CONNECT")(scene)], says=":protocol"
    ),
    "two authorities": Odd(
        headers=lambda scene: [*with_()(scene), (":authority", str(scene.target.address))], says="twice"
    ),
    "an unknown pseudo-header": Odd(headers=lambda scene: [(":colour", "red"), *with_()(scene)], says=":colour"),
    "a pseudo-header after a field": Odd(
        headers=lambda scene: [("x-field", "1"), *with_()(scene)], says="after an ordinary field"
    ),
    "an upper-case field": Odd(headers=with_(("X-Field", "1")), says="X-Field"),
    "a field without a name": Odd(headers=with_(("", "1")), says="field name"),
    "a connection field": Odd(headers=with_(("connection", "close")), says="connection"),
    "a transfer-encoding": Odd(headers=with_(("transfer-encoding", "chunked")), says="transfer-encoding"),
    "te: gzip": Odd(headers=with_(("te", "gzip")), says="te"),
    "a line feed in a value": Odd(headers=with_(("x-field", "a\nb")), says="x-field"),
    "a GET without a path": Odd(headers=lambda _: [(":method", "GET")], says="GET"),
}
REFUSED = {
    "a GET": Odd(headers=request("GET"), status=400, says="GET on a tunnel"),
    "a POST": Odd(headers=request("POST"), status=400, says="POST on a tunnel"),
    "an empty authority": Odd(headers=to(""), status=400, says=":authority"),
    "an address without a port": Odd(headers=to("127.0.0.1"), status=400, says="127.0.0.1"),
    "a name without a port": Odd(headers=to("cart.shop"), status=400, says="cart.shop"),
    "port 0": Odd(headers=to("127.0.0.1:0"), status=400, says="'0' is not a port"),
    "port 70000": Odd(headers=to("127.0.0.1:70000"), status=400, says="70000"),
    "a user before the address": Odd(headers=to("me@127.0.0.1:80"), status=400, says=":authority"),
    "a whole URL": Odd(headers=to("https://127.0.0.1:80/"), status=400, says=":authority"),
    "a foreign address": Odd(headers=to("192.0.2.1:80"), status=400, says="ip mismatch"),
    "loopback": Odd(headers=to("127.0.0.1:80"), status=400, says="ip mismatch"),
    "loopback in IPv6": Odd(headers=to("[::1]:80"), status=400, says="ip mismatch"),
    "an unknown name": Odd(headers=to("nobody.shop:80"), status=503, says="nobody.shop"),
    "our own port": Odd(headers=lambda scene: connect_headers(scene.tunnel), status=503, says="recursive"),
    "a closed port": Odd(
        headers=lambda scene: connect_headers(SocketAddress(scene.target.address.ip, 1)),
        status=503,
        says="Connection refused",
    ),
    "too long a header list": Odd(headers=with_(("x-long", "~" * 70_000)), status=431, says="header list"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_reset_with_protocol_error(case: str, scene: Scene) -> None:
    odd = MALFORMED[case]
    with scene.one_line(odd.says):
        answer = scene.ask(odd.headers(scene))
    assert (answer.status, answer.reset) == (None, PROTOCOL_ERROR)


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_not_for_us_is_answered_and_ended(case: str, scene: Scene) -> None:
    odd = REFUSED[case]
    with scene.one_line(odd.says):
        answer = scene.ask(odd.headers(scene))
    assert (answer.status, answer.ended, bytes(answer.body)) == (odd.status, True, b"")
    assert answer.reset in {None, NO_ERROR}


def test_a_refused_request_leaves_the_next_in_its_tunnel_alone(scene: Scene) -> None:
    odd_ones = (*MALFORMED.values(), *REFUSED.values())
    before = len(scene.node.access())
    with scene.probe() as probe:
        for odd in odd_ones:
            probe.wait_end(probe.request(odd.headers(scene)))
        assert probe.wait_status(probe.request(connect_headers(scene.target.address))) == 200
    lines = scene.node.wait_access(before + len(odd_ones) + 1)  # all of them: what comes next counts its own
    assert lines[-1].fields["dst.hbone_addr"] == str(scene.target.address)


def test_a_header_block_without_end_costs_the_connection(scene: Scene) -> None:
    headers, continuation = 1, 9
    with scene.one_line("header block"), scene.probe() as probe:
        probe.send_frame(headers, stream=1, payload=b"")
        for _ in range(20):
            probe.send_frame(continuation, stream=1, payload=bytes(16_384))
        probe.wait_closed()
        assert probe.went_away == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "more",
    [
        ("x-unknown", "whatever"),
        ("baggage", "k8s.cluster.name=,=,;;,k8s.pod.name=a=b"),
        ("forwarded", "for=;host"),
        ("traceparent", "00-not-a-trace"),
        ("x-forwarded-network", ""),
        ("te", "trailers"),
    ],
    ids=lambda more: more[0],
)
def test_a_request_with_strange_but_lawful_fields_is_served(more: tuple[str, str], scene: Scene) -> None:
    before = len(scene.node.access())
    with scene.probe() as probe:
        stream = probe.request([*connect_headers(scene.target.address), more])
        assert probe.wait_status(stream) == 200
        probe.send(stream, b"hello", end_stream=True)
        assert probe.wait_end(stream) == Answer(
            status=200, headers=probe.answers[stream].headers, body=bytearray(b"hello"), ended=True
        )
    assert not scene.node.wait_access(before + 1)[before].error


def test_a_request_that_ends_its_side_at_once_is_served(scene: Scene) -> None:
    before = len(scene.node.access())
    answer = scene.ask(connect_headers(scene.target.address), end_stream=True)
    assert (answer.status, answer.ended, answer.reset) == (200, True, None)
    assert not scene.node.wait_access(before + 1)[before].error


def test_the_answer_describes_the_destination_and_says_nothing_else(scene: Scene) -> None:
    before = len(scene.node.access())
    answer = scene.ask(connect_headers(scene.target.address), end_stream=True)
    assert set(answer.headers) == {":status", "baggage"}
    assert "k8s.namespace.name=shop" in answer.headers["baggage"]
    scene.node.wait_access(before + 1)


# --- certificates -------------------------------------------------------------------------------------------------

Make = Callable[[Scene, SpiffeId], Identity]

WRONG: dict[str, tuple[Make, str, str]] = {
    "of an unknown root": (lambda s, me: s.foreign.odd(me), "TLSV1_ALERT_UNKNOWN_CA", "is not trusted"),
    "of another trust domain": (
        lambda s, _: s.foreign.identity("shop", "client"),
        "TLSV1_ALERT_UNKNOWN_CA",
        "no roots for trust domain other.local",
    ),
    "of another trust domain by our root": (
        lambda s, _: s.pki.odd(s.foreign.spiffe_id("client")),
        "TLSV1_ALERT_UNKNOWN_CA",
        "no roots for trust domain other.local",
    ),
    "expired": (lambda s, me: s.pki.odd(me, begins_h=-2, ends_h=-1), "SSLV3_ALERT_CERTIFICATE_EXPIRED", "ended at"),
    "not yet valid": (lambda s, me: s.pki.odd(me, begins_h=1, ends_h=2), "SSLV3_ALERT_BAD_CERTIFICATE", "begins at"),
    "without any name": (
        lambda s, me: s.pki.odd(me, uris=(), subject="nobody"),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "no SPIFFE ID",
    ),
    "with a DNS name only": (
        lambda s, me: s.pki.odd(me, uris=(), dns=("client.shop",)),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "no SPIFFE ID",
    ),
    "with two identities": (
        lambda s, me: s.pki.odd(me, uris=(str(me), f"{me}2")),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "2 URI names",
    ),
    "with a web address": (
        lambda s, me: s.pki.odd(me, uris=("https://client.shop/",)),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "not a SPIFFE ID",
    ),
    "of a CA": (lambda s, me: s.pki.odd(me, ca=True), "SSLV3_ALERT_BAD_CERTIFICATE", "it is a CA certificate"),
    "that may sign certificates": (
        lambda s, me: s.pki.odd(me, usage=("digital_signature", "key_cert_sign")),
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "keyCertSign",
    ),
    "for servers only": (
        lambda s, me: s.pki.odd(me, extended=(SERVER_AUTH,)),
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "lacks clientAuth",
    ),
}
RIGHT: dict[str, Make] = {
    "with a DNS name beside its identity": lambda s, me: s.pki.odd(me, dns=("client.shop",)),
    "with a name that is not critical": lambda s, me: s.pki.odd(me, san_critical=False),
    "with an RSA key": lambda s, me: s.pki.odd(me, key=rsa.generate_private_key(65_537, 2048)),
    "with a P-384 key": lambda s, me: s.pki.odd(me, key=ec.generate_private_key(ec.SECP384R1())),
    "for clients only": lambda s, me: s.pki.odd(me, extended=(CLIENT_AUTH,)),
    "without extended usage": lambda s, me: s.pki.odd(me, extended=None),
    "without key identifiers": lambda s, me: s.pki.odd(me, key_identifiers=False),
    "with an identity that is not Istio's form": lambda s, _: s.pki.odd(
        SpiffeId.parse(f"spiffe://{s.pki.domain}/payments/web")
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_client_is_refused_by_alert_when_its_certificate_is(case: str, scene: Scene) -> None:
    make, alert, says = WRONG[case]
    with scene.one_line(says):
        assert alert in refusal(scene, scene.hello(make(scene, scene.pki.spiffe_id("client"))))


@pytest.mark.parametrize("case", RIGHT)
def test_a_client_is_served_when_its_certificate_is(case: str, scene: Scene) -> None:
    identity = RIGHT[case](scene, scene.pki.spiffe_id("client"))
    before = len(scene.node.access())
    with HboneProbe(scene.tunnel, scene.hello(identity)) as probe:
        answer = probe.wait_end(probe.request(connect_headers(scene.target.address), end_stream=True))
    assert answer.status == 200
    assert scene.node.wait_access(before + 1)[before].fields["src.identity"] == str(identity.spiffe_id)


def test_a_client_without_a_certificate_is_told_that_one_is_required(scene: Scene) -> None:
    with scene.one_line("presented no certificate"):
        assert "CERTIFICATE_REQUIRED" in refusal(scene, Hello(identity=None))


@pytest.mark.parametrize("offered", [(), ("http/1.1",), ("h3",)], ids=["nothing", "http/1.1", "h3"])
def test_a_client_whose_alpn_is(offered: tuple[str, ...], scene: Scene) -> None:
    hello = Hello(identity=scene.pki.identity("shop", "client"), alpn=offered)
    with scene.one_line("h2"):
        assert refusal(scene, hello)


def test_a_client_of_tls_1_2_is_refused_by_version(scene: Scene) -> None:
    hello = Hello(identity=scene.pki.identity("shop", "client"), newest_tls=ssl.TLSVersion.TLSv1_2)
    with scene.one_line("TLS 1.3"):
        assert "PROTOCOL_VERSION" in refusal(scene, hello)


def refusal(scene: Scene, hello: Hello) -> str:
    """How a connection is refused, in Python's words; it asks for nothing less than a CONNECT."""
    try:
        with HboneProbe(scene.tunnel, hello) as probe:
            stream = probe.request(connect_headers(scene.target.address))
            assert probe.wait_status(stream) is None
            return probe.wait_closed()
    except ssl.SSLError as error:
        return str(error)


# --- what is not HBONE at all -------------------------------------------------------------------------------------

NOT_TLS = {
    "a web request": (b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", "plain HTTP request"),
    "a proxy request": (b"CONNECT shop:80 HTTP/1.1\r\nHost: shop\r\n\r\n", "plain CONNECT request"),
    "HTTP/2 in clear": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not TLS"),
    "SSH": (b"SSH-2.0-OpenSSH_9.9\r\n", "not TLS"),
    "zeros": (bytes(100), "not TLS"),
    "noise": (random.Random(7).randbytes(5000), "not TLS"),
    "half a record and its end": (b"\x16\x03\x01\x02\x00\x01", "dropped"),
}


@pytest.mark.parametrize("case", NOT_TLS)
def test_what_is_not_tls_is_dropped_and_named(case: str, scene: Scene) -> None:
    sent, says = NOT_TLS[case]
    with scene.one_line(says), socket.create_connection((str(scene.tunnel.ip), scene.tunnel.port), 10) as conn:
        conn.sendall(sent)
        conn.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while conn.recv(4096):
                pass


def test_a_connection_that_says_nothing_is_dropped_after_the_handshake_s_time(scene: Scene) -> None:
    silent = socket.create_connection((str(scene.tunnel.ip), scene.tunnel.port), 10)
    with scene.one_line("not done in time"), silent:
        assert silent.recv(1) == b""


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: shop\r\n\r\n", bytes(64)], ids=["HTTP/1", "zeros"])
def test_what_is_not_http2_inside_tls_is_dropped_and_named(sent: bytes, scene: Scene) -> None:
    plain = socket.create_connection((str(scene.tunnel.ip), scene.tunnel.port), 10)
    with scene.one_line("preface"), scene.hello().context().wrap_socket(plain) as tls:
        tls.sendall(sent)
        with contextlib.suppress(OSError):
            while tls.recv(4096):
                pass


def test_a_peer_that_never_says_a_word_of_http2_disturbs_nobody(scene: Scene) -> None:
    plain = socket.create_connection((str(scene.tunnel.ip), scene.tunnel.port), 10)
    with scene.hello().context().wrap_socket(plain) as tls:
        assert tls.recv(4096)  # our SETTINGS
        assert scene.honest_stream_works()
