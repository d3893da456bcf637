import asyncio

from hbone.net.rearm import Rearm, watch_again
from tests.support.tcp import Tcp, eventually
from tests.support.tlspeer import tcp_pair


class Reader:
    """Reads ten bytes at each call, like a relay that takes a piece of what is there."""

    def __init__(self, rearm: Rearm, sock: Tcp) -> None:
        self.loop = asyncio.get_running_loop()
        self.rearm_later = rearm
        self.sock = sock.sock
        self.fd = sock.sock.fileno()
        self.got = 0
        self.ended: str | None = None
        self.noted = False
        self.loop.add_reader(self.fd, self.on_readable)

    def on_readable(self) -> None:
        try:
            n = len(self.sock.recv(10))
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.ended = "reset"
            self.loop.remove_reader(self.fd)
            return
        self.got += n
        if not self.noted:
            self.noted = True
            self.rearm_later.note(self)

    def rearm(self) -> None:
        self.noted = False
        if self.ended is None:
            watch_again(self.loop, self.fd, self.on_readable, None)


async def test_a_reset_behind_unread_bytes_is_seen_in_the_end() -> None:
    near, far = tcp_pair()
    peer = Tcp(far)
    rearm = Rearm(asyncio.get_running_loop())
    await peer.send(bytes(35))
    peer.reset()  # before the loop has looked
    reader = Reader(rearm, Tcp(near))
    await eventually(lambda: reader.ended)
    assert (reader.got, reader.ended) == (35, "reset")
    near.close()
    rearm.close()


async def test_a_reader_that_stopped_is_not_called_again() -> None:
    near, far = tcp_pair()
    rearm = Rearm(asyncio.get_running_loop())
    reader = Reader(rearm, Tcp(near))
    async with Tcp(far) as peer:
        await peer.send(b"x")
        await eventually(lambda: reader.got)
        reader.ended = "by choice"
        asyncio.get_running_loop().remove_reader(reader.fd)
        await eventually(lambda: not reader.noted)
        await peer.send(b"y")
        await asyncio.sleep(0.02)
        assert reader.got == 1
    near.close()
    rearm.close()


async def test_a_writer_is_put_back_with_its_reader() -> None:
    near, far = tcp_pair()
    loop = asyncio.get_running_loop()
    near.setblocking(False)
    writes: list[int] = []

    def on_writable() -> None:
        writes.append(1)
        loop.remove_writer(near.fileno())

    Tcp(far).reset()
    loop.add_reader(near.fileno(), lambda: None)  # called once, reads nothing: the registration ends
    await asyncio.sleep(0.02)
    watch_again(loop, near.fileno(), lambda: None, on_writable)
    await eventually(lambda: writes or loop.__class__.__module__ != "uvloop")
    loop.remove_reader(near.fileno())
    loop.remove_writer(near.fileno())
    near.close()
