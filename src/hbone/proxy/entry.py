"""How programs come in, as far as it matters for what they are told."""

import socket
from typing import Final, Protocol

from hbone.errors import HboneError
from hbone.net.closing import BRIEF, Closing
from hbone.net.sockets import close_with_reset


class Entry(Protocol):
    """How a program came in, and what it must be told about its connection."""

    @property
    def optimistic(self) -> bool:
        """Whether its bytes may go before the answer; not when the program waits to be told."""
        ...

    @property
    def tells(self) -> bool:
        """Whether `failed` says something: then the program must get to read it. Else only a reset tells."""
        ...

    def connected(self, sock: socket.socket) -> None:
        """The destination has answered; payload follows."""

    def failed(self, sock: socket.socket, error: HboneError) -> None:
        """There will be no connection; tell why, if this kind of entry can. The socket is closed next."""


class DirectEntry:
    """A listener for one destination, or a captured connection: the program knows nothing of us."""

    optimistic = True
    tells = False

    def connected(self, sock: socket.socket) -> None: ...

    def failed(self, sock: socket.socket, error: HboneError) -> None: ...


DIRECT: Final = DirectEntry()


def turn_away(sock: socket.socket, entry: Entry, error: HboneError, closing: Closing) -> None:
    """There is no connection: say so in the entry's own way, and leave no doubt that this is no empty answer."""
    entry.failed(sock, error)
    if entry.tells:
        closing.linger(sock, BRIEF)
    else:
        close_with_reset(sock)
