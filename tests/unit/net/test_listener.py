import asyncio
import os
import resource
import socket

import pytest

from hbone.addr import SocketAddress
from hbone.net.listener import ACCEPTS_PER_TURN, Listener
from hbone.net.sockets import KeepAlive, bind_listener, bind_unix_listener
from tests.support.tcp import Tcp, eventually


def bound() -> socket.socket:
    return bind_listener(SocketAddress.of(("127.0.0.1", 0)))


async def test_accepted_sockets_are_ready_for_use() -> None:
    accepted: list[socket.socket] = []
    sock = bound()
    listener = Listener(asyncio.get_running_loop(), sock, accepted.append, name="test", keep_alive=KeepAlive(idle_s=9))
    listener.start()
    address = listener.address
    assert isinstance(address, SocketAddress)
    callers = [await Tcp.connect(address) for _ in range(ACCEPTS_PER_TURN + 10)]
    await eventually(lambda: len(accepted) == len(callers))
    assert not accepted[0].getblocking()
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 9
    listener.close()
    listener.close()
    with pytest.raises(OSError):
        await Tcp.connect(address)
    assert listener.address == address, "still known, for those who look at a draining node"
    for one in accepted:
        one.close()
    for caller in callers:
        caller.close()


async def test_a_fault_with_one_connection_leaves_the_listener_and_closes_that_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    accepted: list[socket.socket] = []

    def fail_once(sock: socket.socket) -> None:
        accepted.append(sock)
        if len(accepted) == 1:
            raise RuntimeError("a bug")

    listener = Listener(asyncio.get_running_loop(), bound(), fail_once, name="test")
    listener.start()
    address = listener.address
    assert isinstance(address, SocketAddress)
    async with await Tcp.connect(address) as first, await Tcp.connect(address):
        assert await first.ending() == "end"
        await eventually(lambda: len(accepted) == 2)
    assert "a bug" in caplog.text
    listener.close()
    accepted[1].close()


async def test_a_long_want_of_descriptors_is_said_once_and_not_at_each_attempt(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hbone.net.listener.BACK_OFF_S", 0.005)
    accepted: list[socket.socket] = []
    listener = Listener(asyncio.get_running_loop(), bound(), accepted.append, name="test")
    address = listener.address
    assert isinstance(address, SocketAddress)
    listener.start()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    caller = socket.socket()
    caller.setblocking(False)
    try:
        spare = os.dup(caller.fileno())  # the next one that would be given out
        os.close(spare)
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, limits[1]))
        caller.connect_ex((str(address.ip), address.port))
        await asyncio.sleep(0.2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    await eventually(lambda: len(accepted) == 1)
    assert caplog.text.count("accepting pauses") == 1
    listener.close()
    for sock in (caller, *accepted):
        sock.close()


async def test_a_unix_listener_shows_its_path(tmp_path: object) -> None:
    path = f"{tmp_path}/sock"
    listener = Listener(asyncio.get_running_loop(), bind_unix_listener(path), lambda _: None, name="test")
    assert listener.address == path
    assert listener.sock.fileno() >= 0
    listener.close()
