"""Who is refused in a TLS handshake, what each end is told, and that not a byte was exchanged."""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL

from hbone.errors import HboneError, PeerRejected, TlsFailure
from hbone.identity.bundle import TrustBundle
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import X509Svid
from hbone.identity.verify import (
    Expired,
    ForeignTrustDomain,
    NoCertificate,
    NotAnSvid,
    NotYetValid,
    Revoked,
    UnexpectedIdentity,
    UntrustedRoot,
    WrongUsage,
)
from hbone.net import handshake, tlsbinding
from hbone.net.clock import SystemClock
from hbone.net.tls import TlsStream
from hbone.net.tlsalert import ConnectionLost, HandshakeTimeout, NoCommonProtocol, NotTls, PeerRefusedUs
from hbone.net.tlscontext import TlsContexts, TlsOptions
from hbone.times import WallTime
from tests.support.pki import AUTHORITY, Sheet, SpiffeCA
from tests.support.tlspeer import Seen, meet, read, refused_client, soon, stranger, stranger_context, tcp_pair

A, B = TrustDomain("a.test"), TrustDomain("b.test")
CART, TILL = "spiffe://a.test/ns/shop/sa/cart", "spiffe://a.test/ns/shop/sa/till"
LEDGER = "spiffe://b.test/ns/bank/sa/ledger"
ROOT_A, ROOT_B = SpiffeCA(name="root a"), SpiffeCA(name="root b")
BUNDLE = TrustBundle(roots={A: (ROOT_A.cert,), B: (ROOT_B.cert,)})


def contexts(svid: X509Svid, bundle: TrustBundle = BUNDLE, options: TlsOptions | None = None) -> TlsContexts:
    return TlsContexts(svid, bundle, options)


@pytest.fixture(scope="module")
def good() -> TlsContexts:
    return contexts(ROOT_A.svid(CART))


@pytest.fixture(params=["native", "portable"])
def either_binding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With OpenSSL's functions at hand, and with pyOpenSSL's public ones alone."""
    if request.param == "portable":
        monkeypatch.setattr(tlsbinding, "NATIVE", False)
    return str(request.param)


WRONG: list[tuple[str, Any, type[PeerRejected], str]] = [
    ("expired", lambda: ROOT_A.svid(TILL, begins_h=-2, ends_h=-0.01), Expired, "certificate_expired"),
    ("future", lambda: ROOT_A.svid(TILL, begins_h=0.1, ends_h=2), NotYetValid, "bad_certificate"),
    (
        "expired intermediate",
        lambda: ROOT_A.intermediate("old", sheet=replace(AUTHORITY, begins_h=-9, ends_h=-1)).svid(TILL),
        Expired,
        "certificate_expired",
    ),
    ("unknown root", lambda: SpiffeCA(name="nobody").svid(TILL), UntrustedRoot, "unknown_ca"),
    ("same name, other key", lambda: SpiffeCA(name="root a").svid(TILL), UntrustedRoot, "unknown_ca"),
    ("other domain's root", lambda: ROOT_A.svid(LEDGER), UntrustedRoot, "unknown_ca"),
    ("other domain's intermediate", lambda: ROOT_A.intermediate().svid(LEDGER), UntrustedRoot, "unknown_ca"),
    ("foreign domain", lambda: ROOT_A.svid("spiffe://c.test/x"), ForeignTrustDomain, "unknown_ca"),
    ("CA flag", lambda: ROOT_A.svid(TILL, ca=True), NotAnSvid, "bad_certificate"),
    (
        "keyCertSign",
        lambda: ROOT_A.svid(TILL, usage=("digital_signature", "key_cert_sign")),
        NotAnSvid,
        "bad_certificate",
    ),
    ("two URIs", lambda: ROOT_A.svid(TILL, uris=(TILL, CART)), NotAnSvid, "bad_certificate"),
    ("no URI", lambda: ROOT_A.svid(TILL, uris=(), dns=("till.shop",)), NotAnSvid, "bad_certificate"),
    ("no names at all", lambda: ROOT_A.svid(TILL, uris=()), NotAnSvid, "bad_certificate"),
    ("domain only", lambda: ROOT_A.svid(TILL, uris=("spiffe://a.test",)), NotAnSvid, "bad_certificate"),
    (
        "mail only",
        lambda: ROOT_A.svid(TILL, extended=(ExtendedKeyUsageOID.EMAIL_PROTECTION,)),
        WrongUsage,
        "unsupported_certificate",
    ),
]
each_wrong = pytest.mark.parametrize(("make", "kind", "alert"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])


@each_wrong
async def test_a_wrong_client_is_refused_and_sees_why(
    good: TlsContexts, make: Any, kind: type[PeerRejected], alert: str
) -> None:
    learnt, refusal = await refused_client(contexts(make()), good)
    assert type(refusal) is kind, refusal
    assert isinstance(learnt, PeerRefusedUs), learnt
    assert learnt.alert_name == alert  # type: ignore[attr-defined] # set by keyword
    assert f"the peer refused us with the alert {alert}" in str(learnt)
    assert learnt.fix


@each_wrong
async def test_a_wrong_server_is_refused_and_sees_why(
    good: TlsContexts, make: Any, kind: type[PeerRejected], alert: str
) -> None:
    meeting = await meet(good, contexts(make()))
    assert type(meeting.client) is kind, meeting.client
    assert isinstance(meeting.server, PeerRefusedUs), meeting.server
    assert meeting.server.alert_name == alert  # type: ignore[attr-defined] # set by keyword


@each_wrong
async def test_without_the_binding_the_same_peers_are_refused(
    monkeypatch: pytest.MonkeyPatch, make: Any, kind: type[PeerRejected], alert: str
) -> None:
    monkeypatch.setattr(tlsbinding, "NATIVE", False)
    fine = contexts(ROOT_A.svid(CART))
    learnt, refusal = await refused_client(contexts(make()), fine)
    assert type(refusal) is kind, alert
    assert isinstance(learnt, ConnectionLost)
    learnt, _ = await refused_client(fine, contexts(make()))
    assert type(learnt) is kind


async def test_a_server_that_is_somebody_else_is_refused_before_a_byte_is_sent(
    good: TlsContexts, either_binding: str
) -> None:
    till = contexts(ROOT_A.svid(TILL))
    meeting = await meet(contexts(ROOT_A.svid(CART)), till, expected=frozenset({SpiffeId.parse(CART)}))
    assert isinstance(meeting.client, UnexpectedIdentity)
    assert TILL in str(meeting.client)
    assert CART in str(meeting.client)
    if either_binding == "native":
        assert isinstance(meeting.server, PeerRefusedUs)
        assert "identity" in meeting.server.why
    else:
        assert isinstance(meeting.server, TlsStream)
        with contextlib.suppress(ConnectionLost):
            assert await read(meeting.server) == b""
        meeting.close()


async def test_an_rsa_1024_leaf_is_not_even_taken_for_our_own() -> None:
    with pytest.raises(Exception, match="1024"):
        key = rsa.generate_private_key(65537, 1024)
        X509Svid.of([ROOT_A.sign(replace(AUTHORITY, ca=False, usage=None, uris=(TILL,)), key)], key)


async def test_a_server_can_be_limited_to_trust_domains(either_binding: str) -> None:
    limited = contexts(ROOT_A.svid(CART), options=TlsOptions(client_domains=frozenset({A})))
    _, refusal = await refused_client(contexts(ROOT_B.svid(LEDGER)), limited)
    assert isinstance(refusal, ForeignTrustDomain)
    assert "served are: a.test" in refusal.why
    meeting = await meet(contexts(ROOT_A.svid(TILL)), limited)
    meeting.streams()
    meeting.close()
    meeting = await meet(limited, contexts(ROOT_B.svid(LEDGER)))
    meeting.streams()  # the limit is for clients
    meeting.close()
    assert either_binding


async def test_new_roots_are_in_force_without_a_new_certificate() -> None:
    old = contexts(ROOT_A.svid(CART), TrustBundle.of(A, [ROOT_A.cert]))
    ledger = contexts(ROOT_B.svid(LEDGER))
    assert isinstance((await meet(old, ledger)).client, ForeignTrustDomain)
    meeting = await meet(old.with_bundle(BUNDLE), ledger)
    meeting.streams()
    meeting.close()
    assert isinstance((await meet(old, ledger)).client, ForeignTrustDomain)


# --- what is remembered of a peer ---------------------------------------------------------------------------


class LaterClock(SystemClock):
    """This machine's clock, set forward."""

    ahead_s = 0.0

    def wall(self) -> WallTime:
        return WallTime(super().wall() + self.ahead_s)


async def known(svid: X509Svid, clock: LaterClock | None = None) -> TlsContexts:
    """A server's contexts after a first handshake with this client, whose chain they remember."""
    ours = TlsContexts(ROOT_A.svid(TILL), BUNDLE, clock=clock)
    meeting = await meet(contexts(svid), ours)
    meeting.streams()
    meeting.close()
    assert len(ours.known) == 1
    return ours


async def answer(client: X509Svid, ours: TlsContexts) -> TlsStream | HboneError:
    """What our server comes to about a client that trusts it."""
    meeting = await meet(contexts(client), ours)
    meeting.close()
    return meeting.server


async def test_a_client_that_comes_back_is_not_parsed_again(either_binding: str) -> None:
    svid = ROOT_A.intermediate().svid(CART)
    ours = await known(svid)
    first, second = await meet(contexts(svid), ours), await meet(contexts(svid), ours)
    assert first.streams()[1].peer_chain is second.streams()[1].peer_chain
    assert (len(ours.known), str(second.streams()[1].peer)) == (1, CART)
    first.close()
    second.close()
    assert either_binding


async def test_a_known_client_is_refused_once_it_is_revoked(either_binding: str) -> None:
    svid = ROOT_A.svid(CART)
    ours = await known(svid)
    revoked = Revocations(serials={svid.leaf.issuer.public_bytes(): {svid.serial: "keyCompromise"}})
    assert isinstance(await answer(svid, ours.with_bundle(BUNDLE.revoking(revoked))), Revoked)
    assert either_binding


async def test_a_known_client_is_refused_once_its_root_is_removed(either_binding: str) -> None:
    svid = ROOT_A.svid(CART)
    ours = await known(svid)
    other = SpiffeCA(name="root a")
    assert isinstance(await answer(svid, ours.with_bundle(other.bundle("a.test"))), UntrustedRoot)
    assert isinstance(await answer(svid, ours.with_bundle(ROOT_B.bundle("b.test"))), ForeignTrustDomain)
    assert either_binding


async def test_a_known_client_is_refused_once_it_has_expired(either_binding: str) -> None:
    svid, clock = ROOT_A.svid(CART), LaterClock()
    ours = await known(svid, clock)
    clock.ahead_s = 7200
    assert isinstance(await answer(svid, ours), Expired)
    assert either_binding


async def test_another_certificate_of_a_known_clients_key_is_judged_by_itself() -> None:
    svid = ROOT_A.svid(CART)
    ours = await known(svid)
    stolen = SpiffeCA(name="root a").sign(Sheet(uris=(CART,)), svid.key)
    other = X509Svid(chain=(stolen,), key=svid.key, spiffe_id=svid.spiffe_id)
    assert isinstance(await answer(other, ours), UntrustedRoot)


async def test_a_refused_client_is_not_remembered() -> None:
    ours = TlsContexts(ROOT_A.svid(TILL), BUNDLE)
    assert isinstance(await answer(SpiffeCA().svid(CART), ours), UntrustedRoot)
    assert len(ours.known) == 0


async def test_a_handshake_that_nobody_judges_is_refused_without_noise(
    good: TlsContexts, capfd: pytest.CaptureFixture[str]
) -> None:
    near, far = tcp_pair()
    far.setblocking(False)
    unjudged = SSL.Connection(good.server, far)
    unjudged.set_accept_state()
    connecting = asyncio.ensure_future(handshake.connect(near, good, expected=None, deadline=soon()))
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        while True:
            with contextlib.suppress(SSL.WantReadError):
                unjudged.do_handshake()
            await asyncio.sleep(0)
    far.close()
    (await connecting).close()
    assert capfd.readouterr() == ("", "")


# --- strangers ----------------------------------------------------------------------------------------------


async def serve(ours: TlsContexts, context: ssl.SSLContext) -> tuple[TlsStream | HboneError, Seen]:
    """A stranger connects to us; how each end sees it. A stream of ours is answered with a goodbye."""
    near, far = tcp_pair()
    seeing = asyncio.ensure_future(stranger(near, context))
    try:
        stream: TlsStream | HboneError = await handshake.accept(far, ours, deadline=soon())
    except HboneError as error:
        stream = error
    if isinstance(stream, TlsStream):
        assert await read(stream) == b"hello"
        stream.shutdown()
        stream.close()
    return stream, await seeing


async def test_a_client_without_certificate_is_told_that_one_is_required(
    good: TlsContexts, tmp_path: Path, either_binding: str
) -> None:
    ours = contexts(ROOT_A.svid(CART))
    outcome, seen = await serve(ours, stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, None))
    assert type(outcome) is NoCertificate, outcome
    assert seen.error == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert either_binding


async def test_a_client_of_tls_1_2_is_refused_by_version(good: TlsContexts, tmp_path: Path) -> None:
    context = stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, ROOT_A.svid(TILL))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome, seen = await serve(good, context)
    assert isinstance(outcome, NoCommonProtocol)
    assert "TLS 1.3" in str(outcome)
    assert seen.error == "TLSV1_ALERT_PROTOCOL_VERSION"


async def test_a_client_that_offers_other_protocols_is_refused(good: TlsContexts, tmp_path: Path) -> None:
    context = stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, ROOT_A.svid(TILL), alpn=("http/1.1", "h2c"))
    outcome, seen = await serve(good, context)
    assert isinstance(outcome, NoCommonProtocol)
    assert "h2" in outcome.what
    assert "no application protocol" in seen.error.lower().replace("_", " ")


async def test_a_client_without_alpn_is_refused(good: TlsContexts, tmp_path: Path) -> None:
    outcome, seen = await serve(good, stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, ROOT_A.svid(TILL), alpn=()))
    assert isinstance(outcome, NoCommonProtocol)
    assert seen.data == b""


async def test_a_client_that_offers_h2_among_others_is_served(
    good: TlsContexts, tmp_path: Path, either_binding: str
) -> None:
    context = stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, ROOT_A.svid(TILL), alpn=("http/1.1", "h2"))
    outcome, seen = await serve(contexts(ROOT_A.svid(CART)), context)
    assert isinstance(outcome, TlsStream), outcome
    assert (seen.alpn, seen.version, seen.error) == ("h2", "TLSv1.3", "")
    assert either_binding


@pytest.mark.parametrize("alpn", [(), ("http/1.1",)])
async def test_a_server_that_does_not_agree_on_h2_is_refused(
    good: TlsContexts, tmp_path: Path, alpn: tuple[str, ...], either_binding: str
) -> None:
    near, far = tcp_pair()
    context = stranger_context(ssl.Purpose.CLIENT_AUTH, tmp_path, ROOT_A.svid(TILL), alpn=alpn)
    seeing = asyncio.ensure_future(stranger(far, context, server_side=True))
    with pytest.raises(TlsFailure) as caught:
        await handshake.connect(near, contexts(ROOT_A.svid(CART)), expected=None, deadline=soon())
    assert "h2" in str(caught.value) or "protocol" in str(caught.value)
    assert (await seeing).data == b""
    assert either_binding


async def test_a_server_of_tls_1_2_is_refused(good: TlsContexts, tmp_path: Path) -> None:
    near, far = tcp_pair()
    context = stranger_context(ssl.Purpose.CLIENT_AUTH, tmp_path, ROOT_A.svid(TILL))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    seeing = asyncio.ensure_future(stranger(far, context, server_side=True))
    with pytest.raises(PeerRefusedUs, match=r"protocol_version.*TLS 1\.3"):
        await handshake.connect(near, good, expected=None, deadline=soon())
    assert (await seeing).error == "UNSUPPORTED_PROTOCOL"


@pytest.mark.parametrize(
    ("sent", "kind", "said"),
    [
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", NotTls, "plain HTTP request"),
        (b"POST /x HTTP/1.1\r\n\r\n", NotTls, "plain HTTP request"),
        (b"CONNECT 10.0.0.1:80 HTTP/1.1\r\n\r\n", NotTls, "plain CONNECT request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", NotTls, "not TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NotTls, "not TLS"),
        (b"\x00" * 64, NotTls, "not TLS"),
        (b"\xff" * 64, NotTls, "not TLS"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 64, TlsFailure, ""),
        (b"\x16\x03\x01\x00\x05hello", TlsFailure, ""),
        (b"\x15\x03\x03\x00\x02\x02\x28", TlsFailure, "unexpected message"),
        (b"\x16\x03", ConnectionLost, "without a TLS goodbye"),
        (b"", ConnectionLost, "without a TLS goodbye"),
    ],
)
async def test_what_is_not_tls_is_named(sent: bytes, kind: type[TlsFailure], said: str, either_binding: str) -> None:
    near, far = tcp_pair()
    near.sendall(sent)
    near.shutdown(socket.SHUT_WR)
    with pytest.raises(kind) as caught:
        await handshake.accept(far, contexts(ROOT_A.svid(CART)), deadline=soon())
    assert said in str(caught.value)
    assert caught.value.fix
    assert far.fileno() == -1
    near.close()
    assert either_binding


async def test_a_plain_answer_is_not_taken_for_a_server(good: TlsContexts) -> None:
    near, far = tcp_pair()
    far.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(NotTls):
        await handshake.connect(near, good, expected=None, deadline=soon())
    far.close()


async def test_a_reset_in_the_handshake_is_a_lost_connection(good: TlsContexts, either_binding: str) -> None:
    near, far = tcp_pair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    far.close()
    with pytest.raises(ConnectionLost):
        await handshake.connect(near, contexts(ROOT_A.svid(CART)), expected=None, deadline=soon())
    assert either_binding


async def test_a_silent_peer_is_given_up_at_the_deadline(good: TlsContexts) -> None:
    near, far = tcp_pair()
    with pytest.raises(HandshakeTimeout, match="not done in time"):
        await handshake.accept(far, good, deadline=soon(0.05))
    assert far.fileno() == -1
    assert near.recv(1) == b""
    near.close()


async def test_a_cancelled_handshake_closes_its_socket(good: TlsContexts) -> None:
    near, far = tcp_pair()
    task = asyncio.ensure_future(handshake.accept(far, good, deadline=soon()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert far.fileno() == -1
    near.close()


async def test_resumption_is_not_offered(good: TlsContexts, tmp_path: Path) -> None:
    context = stranger_context(ssl.Purpose.SERVER_AUTH, tmp_path, ROOT_A.svid(TILL))
    _, first = await serve(good, context)
    near, far = tcp_pair()
    accepting = asyncio.ensure_future(handshake.accept(far, good, deadline=soon()))
    seeing = asyncio.ensure_future(stranger(near, context, session=first.session))
    stream = await accepting
    assert str(stream.peer) == TILL, "a full handshake with a certificate, whatever the client brought along"
    stream.shutdown()
    stream.close()
    assert (await seeing).error == ""


async def test_a_servers_session_tickets_do_not_disturb(good: TlsContexts, tmp_path: Path) -> None:
    near, far = tcp_pair()
    context = stranger_context(ssl.Purpose.CLIENT_AUTH, tmp_path, ROOT_A.svid(TILL))
    assert context.num_tickets == 2
    seeing = asyncio.ensure_future(stranger(far, context, server_side=True))
    stream = await handshake.connect(near, good, expected=frozenset({SpiffeId.parse(TILL)}), deadline=soon())
    assert await read(stream) == b"hello"
    stream.write(memoryview(b"bye"))
    stream.shutdown()
    stream.close()
    assert (await seeing).data == b"bye"


async def test_the_client_names_no_server(good: TlsContexts, tmp_path: Path) -> None:
    names: list[object] = []
    near, far = tcp_pair()
    context = stranger_context(ssl.Purpose.CLIENT_AUTH, tmp_path, ROOT_A.svid(TILL))
    context.sni_callback = lambda _sock, name, _context: names.append(name)
    seeing = asyncio.ensure_future(stranger(far, context, server_side=True))
    stream = await handshake.connect(near, good, expected=None, deadline=soon())
    stream.shutdown()
    stream.close()
    await seeing
    assert names == [None]
