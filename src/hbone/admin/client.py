"""A client of the window for commands: one request, one deadline, errors that say what to do. It blocks."""

import http.client
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hbone.addr import SocketAddress, parse_ip
from hbone.config.listen import InheritedListen, TcpListen, UnixListen, parse_listen
from hbone.config.places import state_dir
from hbone.errors import Unreachable, UsageError

Place = TcpListen | UnixListen

ADMIN_SOCKET: Final = "admin.sock"
DEFAULT_PLACE: Final = TcpListen(SocketAddress(parse_ip("127.0.0.1"), 15000))
TIMEOUT_S: Final = 3.0  # to connect, and for each next part of the answer: a whole mesh may take longer to arrive
_FIX: Final = "start `hbone up` or `hbone node`, or name the admin listener of a running one with --node"


def admin_socket(directory: Path) -> Path:
    """The window of a running `hbone up` with this state directory."""
    return directory / ADMIN_SOCKET


def parse_place(text: str) -> Place:
    """`127.0.0.1:15000` or `unix:/path`; raises UsageError."""
    place = parse_listen(text)
    if isinstance(place, InheritedListen):
        raise UsageError(f"{text!r} cannot be connected to", fix="write 127.0.0.1:15000 or unix:/path")
    return place


def default_places(environment: Mapping[str, str], given: Path | None = None) -> tuple[Place, ...]:
    """Where to look when no node is named: `given`, a state directory, or the usual port and then the usual one."""
    path = UnixListen(str(admin_socket(state_dir(environment, uid=os.geteuid(), given=given)).absolute()))
    return (path,) if given is not None else (DEFAULT_PLACE, path)


def ask(places: Iterable[Place], path: str, timeout_s: float = TIMEOUT_S) -> object:
    """The JSON that the first window found at `places` gives for `path`. Raises Unreachable when there is none."""
    failures: list[Unreachable] = []
    for place in places:
        try:
            return _parsed(place, path, _get(place, path, timeout_s))
        except Unreachable as error:
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    reasons = "; ".join(f"{error.what} ({error.why})" for error in failures)
    raise Unreachable("no running node or control plane was found", why=reasons, fix=_FIX)


def _get(place: Place, path: str, timeout_s: float) -> bytes:
    connection = _Connection(place, timeout_s)
    try:
        # Compact whatever the client's name; the Host that the window answers to also through a forwarded port.
        connection.request("GET", path, headers={"Host": "localhost", "Accept": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    except TimeoutError as error:
        raise Unreachable(f"no answer from {place} within {timeout_s:g} s", why="it hangs", fix=_FIX) from error
    except OSError as error:
        raise Unreachable(f"nothing answers at {place}", why=_why(error), fix=_fix(error)) from error
    except http.client.IncompleteRead as error:
        raise Unreachable(f"{place} cut its answer short", why="it was stopped meanwhile", fix="ask again") from error
    except http.client.HTTPException as error:
        raise _foreign(place, path, f"it does not speak HTTP: {error!r}"[:200]) from error
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise _foreign(place, path, f"it answers {answer.status}")
    return body


def _parsed(place: Place, path: str, body: bytes) -> object:
    import orjson

    try:
        value: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _foreign(place, path, "its answer is not JSON") from error
    return value


def _foreign(place: Place, path: str, why: str) -> Unreachable:
    """Something else listens there, Envoy's own admin port for one."""
    return Unreachable(f"what listens at {place} has no {path} of hbone's", why=why, fix=_FIX)


def _why(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _fix(error: OSError) -> str:
    return "run this as the user who started the node" if isinstance(error, PermissionError) else _FIX


class _Connection(http.client.HTTPConnection):
    """HTTP over either kind of socket."""

    def __init__(self, place: Place, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._place = place

    def connect(self) -> None:
        match self._place:
            case TcpListen(address=address):
                self.sock = socket.create_connection((str(address.ip), address.port), self.timeout)
            case UnixListen(path=path):
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(self.timeout)
                self.sock.connect(path)
