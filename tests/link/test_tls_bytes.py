"""Bytes over TLS: whole, in order, with both ways of calling OpenSSL, and how a connection ends."""

import asyncio
import gc
import hashlib
import os
import socket
from pathlib import Path

import pytest
from OpenSSL import SSL

from hbone.identity.svid import X509Svid
from hbone.net import tlsbinding
from hbone.net.tls import READ_BUFFER_BYTES, WANT, PortableTlsStream, ReadBuffer, TlsStream
from hbone.net.tlsalert import ConnectionLost
from hbone.net.tlscontext import TlsContexts, TlsOptions
from tests.support.pki import SpiffeCA
from tests.support.tlspeer import meet, read, refused_client

ROOT = SpiffeCA(name="root")
CART, TILL = "spiffe://a.test/ns/shop/sa/cart", "spiffe://a.test/ns/shop/sa/till"


def contexts(spiffe_id: str = CART, options: TlsOptions | None = None, ca: SpiffeCA = ROOT) -> TlsContexts:
    return TlsContexts(ca.svid(spiffe_id), ROOT.bundle("a.test"), options)


@pytest.fixture(params=["native", "portable"], autouse=True)
def binding(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "portable":
        monkeypatch.setattr(tlsbinding, "NATIVE", False)
    return str(request.param)


async def streams() -> tuple[TlsStream, TlsStream]:
    return (await meet(contexts(CART), contexts(TILL))).streams()


async def test_a_handshake_tells_who_and_how(binding: str) -> None:
    middle = ROOT.intermediate()
    meeting = await meet(contexts(CART, ca=middle), contexts(TILL))
    client, server = meeting.streams()
    assert isinstance(client, PortableTlsStream) == (binding == "portable")
    assert (str(client.peer), str(server.peer)) == (TILL, CART)
    assert [certificate.subject.rfc4514_string() for certificate in server.peer_chain] == ["", "O=middle"]
    assert (client.tls_version, client.cipher) == ("TLSv1.3", "TLS_AES_128_GCM_SHA256")
    assert client.group == server.group == "X25519MLKEM768"
    assert client.fd == client.sock.fileno()
    assert TILL in repr(client)
    meeting.close()


async def test_a_megabyte_arrives_whole_though_the_socket_blocks() -> None:
    client, server = await streams()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    content = os.urandom(1 << 20)
    waits = 0

    async def send() -> None:
        nonlocal waits
        view, step = memoryview(content), 256 * 1024
        for start in range(0, len(view), step):
            piece = view[start : start + step]
            while piece:
                count = client.write(piece)
                if count == WANT:
                    waits += 1
                    await writable(client.fd)
                else:
                    piece = piece[count:]
        client.shutdown()

    sending = asyncio.ensure_future(send())
    digest, length, buffer = hashlib.sha256(), 0, ReadBuffer()
    while piece := await read(server, buffer):
        digest.update(piece)
        length += len(piece)
    await sending
    assert waits > 0
    assert length == len(content)
    assert digest.digest() == hashlib.sha256(content).digest()
    client.close()
    server.close()


async def test_a_write_is_taken_whole_and_a_read_goes_where_it_is_told(binding: str) -> None:
    client, server = await streams()
    assert client.write(memoryview(b"x" * 65536)) == 65536
    buffer = ReadBuffer()
    assert buffer.size == READ_BUFFER_BYTES
    offset = 100
    while offset < 100 + 65536:
        got = server.read_into(buffer, offset)
        assert got in {WANT, 16384}
        offset += max(got, 0)
        await asyncio.sleep(0)
    assert bytes(buffer.view[:101]) == bytes(100) + b"x"
    assert bytes(buffer.view[offset - 1 : offset + 1]) == b"x\0"
    assert server.read_into(buffer, 0) == WANT
    client.close()
    server.close()
    assert binding


async def test_a_blocked_write_takes_the_same_bytes_from_elsewhere() -> None:
    client, server = await streams()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    content = os.urandom(256 * 1024)
    while client.write(memoryview(content)) != WANT:
        pass
    received, buffer = 0, ReadBuffer()
    copy, written = bytearray(content), WANT
    while written == WANT:
        while (got := server.read_into(buffer, 0)) != WANT:
            received += got
        written = client.write(memoryview(copy))  # the buffer may move between tries, not change
        await asyncio.sleep(0)
    assert written == len(content)
    client.close()
    server.close()


async def test_a_goodbye_is_an_end_and_a_cut_is_not() -> None:
    client, server = await streams()
    client.shutdown()
    assert await read(server) == b""
    assert await read(server) == b""
    server.write(memoryview(b"still"))  # a goodbye closes one direction
    assert await read(client) == b"still"
    client.close()
    server.close()

    client, server = await streams()
    assert client.read_into(ReadBuffer(), 0) == WANT  # with anything unread, closing would reset
    client.close()
    with pytest.raises(ConnectionLost, match="without a TLS goodbye"):
        await read(server)
    server.close()


async def test_a_reset_is_a_lost_connection() -> None:
    client, server = await streams()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    with pytest.raises(ConnectionLost, match="reset"):
        await read(server)
    with pytest.raises(ConnectionLost):
        server.write(memoryview(b"x"))
    server.shutdown()  # harmless
    server.close()


async def test_a_write_to_a_peer_that_is_gone_is_a_lost_connection_too() -> None:
    client, server = await streams()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    with pytest.raises(ConnectionLost, match="reset by peer"):
        server.write(memoryview(b"x"))
    server.close()


async def test_a_failure_on_one_connection_leaves_the_others_alone() -> None:
    """OpenSSL's error queue is the thread's: an error left in it would be read as the next connection's."""
    client, server = await streams()
    broken, other = await streams()
    other.sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record that does not decrypt
    await asyncio.sleep(0)
    with pytest.raises(Exception, match="record was damaged"):
        await read(broken)
    assert client.read_into(ReadBuffer(), 0) == WANT
    assert server.write(memoryview(b"fine")) == 4
    assert await read(client) == b"fine"
    for stream in (client, server, broken, other):
        stream.close()


async def test_groups_and_suites_can_be_chosen(binding: str) -> None:
    classic = TlsOptions(groups=("X25519",), ciphers=("TLS_AES_256_GCM_SHA384",))
    client, server = (await meet(contexts(options=classic), contexts(TILL))).streams()
    assert (client.cipher, client.group.lower()) == ("TLS_AES_256_GCM_SHA384", "x25519")
    client.close()
    server.close()
    with pytest.raises(Exception, match="unknown key exchange groups"):
        contexts(options=TlsOptions(groups=("X0",)))
    with pytest.raises(Exception, match=r"unknown TLS 1\.3 cipher suites"):
        contexts(options=TlsOptions(ciphers=("TLS_NONE",)))
    assert binding


async def test_the_server_prefers_aes_128_whatever_the_client_does() -> None:
    reverse = TlsOptions(ciphers=("TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256"))  # ztunnel's order
    client, server = (await meet(contexts(options=reverse), contexts(TILL))).streams()
    assert client.cipher == "TLS_AES_128_GCM_SHA256"
    client.close()
    server.close()


async def test_a_key_log_is_written_only_where_asked_for() -> None:
    lines: list[bytes] = []
    client, server = (await meet(contexts(), contexts(TILL))).streams()
    client.close()
    server.close()
    client, server = (await meet(contexts(), contexts(TILL, TlsOptions(keylog=lines.append)))).streams()
    labels = {line.split()[0] for line in lines}
    assert {b"CLIENT_TRAFFIC_SECRET_0", b"SERVER_TRAFFIC_SECRET_0"} <= labels
    client.close()
    server.close()


async def test_no_key_in_any_text(tmp_path: Path) -> None:
    svid = ROOT.svid(CART)
    made = TlsContexts(svid, ROOT.bundle("a.test"))
    client, server = (await meet(made, contexts(TILL))).streams()
    shown = f"{made!r}{client!r}{made.judgement(side=client.side, expected=None)!r}"
    body = b"".join(svid.key_pem().splitlines()[1:-1]).decode()
    assert body[:40] not in shown
    assert "key=" not in shown
    client.close()
    server.close()


async def test_finished_handshakes_leave_nothing_behind() -> None:
    first, second = contexts(), contexts(TILL)
    wrong = TlsContexts(SpiffeCA().svid(CART), ROOT.bundle("a.test"))

    async def kept_after_some() -> int:
        for _ in range(3):
            (await meet(first, second)).close()
            await refused_client(wrong, second)
        gc.collect()
        return sum(isinstance(held, SSL.Connection) for held in gc.get_objects())

    before = await kept_after_some()
    assert await kept_after_some() == before
    assert first.handshakes_in_progress == second.handshakes_in_progress == 0


async def writable(fd: int) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        async with asyncio.timeout(10):
            await ready.wait()
    finally:
        loop.remove_writer(fd)


def test_an_svid_whose_key_does_not_fit_makes_no_context() -> None:
    svid = ROOT.svid(CART)
    wrong = X509Svid(chain=svid.chain, key=ROOT.svid(CART).key, spiffe_id=svid.spiffe_id)
    with pytest.raises(SSL.Error):
        TlsContexts(wrong, ROOT.bundle("a.test"))
