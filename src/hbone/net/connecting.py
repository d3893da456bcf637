"""A `Dial` that a task waits for."""

import asyncio
import socket

from hbone.addr import SocketAddress
from hbone.errors import HboneError
from hbone.net.dial import Dial
from hbone.net.dialoptions import DialOptions
from hbone.net.poller import Poller


async def dial(poller: Poller, upstream: SocketAddress, options: DialOptions) -> socket.socket:
    """A connected non-blocking socket; raises UpstreamFailed or UpstreamTimeout."""
    result: asyncio.Future[socket.socket] = poller.loop.create_future()

    def settle(sock: socket.socket | None, error: HboneError | None) -> None:
        if sock is not None:
            result.set_result(sock)
        elif error is not None:
            result.set_exception(error)

    attempt = Dial(poller, upstream, options, settle)
    attempt.start()
    try:
        return await result
    except asyncio.CancelledError:
        attempt.cancel()
        if result.done() and not result.cancelled() and result.exception() is None:
            result.result().close()
        raise
