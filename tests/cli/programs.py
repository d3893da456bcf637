"""`hbone expose` and `hbone forward` as a user starts them, and plain TCP clients for what they carry."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass, field

from hbone.addr import SocketAddress
from tests.support.commands import WAIT_LIMIT_S, Running, Sandbox

CONNECT_LIMIT_S = 10.0
_FIELD = re.compile(r'([a-z_.]+)=("(?:[^"\\]|\\.)*"|\S+)')
_LEADS = re.compile(r"^(\S+) leads to ", re.MULTILINE)
_ARRIVE = re.compile(r"tunnels arrive at (\S+)")


def up(sandbox: Sandbox, *more: str) -> Running:
    """`hbone up`, ready."""
    running = sandbox.start("up", *more)
    running.wait_for("Ctrl-C ends it")
    return running


def expose(sandbox: Sandbox, account: str, port: int, target: SocketAddress, *more: str) -> Running:
    """`hbone expose`, ready: the mesh's `port` is `target`."""
    running = sandbox.start("expose", "--as", account, *more, f"{port}:{target}")
    running.wait_for("tunnels arrive at")
    return running


def tunnels_of(exposed: Running) -> SocketAddress:
    """Where tunnels to an exposed port arrive."""
    found = _ARRIVE.search(exposed.err)
    assert found is not None
    return SocketAddress.parse(found[1])


def forward(sandbox: Sandbox, account: str, to: str, *more: str) -> tuple[Running, SocketAddress]:
    """`hbone forward`, ready, on a free port; and where that is."""
    running = sandbox.start("forward", "--as", account, *more, f"0:{to}")
    running.wait_for(" leads to ")
    found = _LEADS.search(running.err)
    assert found is not None
    return running, SocketAddress.parse(found[1])


def access(running: Running, count: int = 1) -> list[dict[str, str]]:
    """The fields of its access lines, without quotes; `error` is always there. At least `count` lines."""
    running.wait_for("\taccess\t", count=count)
    lines = running.lines("\taccess\t")
    return [{"error": ""} | {name: value.strip('"') for name, value in _FIELD.findall(line)} for line in lines]


def connect(address: SocketAddress) -> socket.socket:
    return socket.create_connection((str(address.ip), address.port), timeout=CONNECT_LIMIT_S)


def exchange(address: SocketAddress, data: bytes = b"ping") -> bytes:
    """Send, end our side, and read to the end of theirs; raises ConnectionError."""
    with connect(address) as sock:
        sock.sendall(data)
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError as error:  # ENOTCONN: a reset has come since
            raise ConnectionResetError(error.errno, "reset while sending") from error
        answer = b""
        while more := sock.recv(65536):
            answer += more
    return answer


def refused(address: SocketAddress) -> bool:
    """Whether a connection is refused or reset without an answer."""
    try:
        return exchange(address) == b""
    except ConnectionError:
        return True


def wait_answer(address: SocketAddress, answer: bytes, *, limit_s: float = WAIT_LIMIT_S) -> None:
    """Until an exchange gives `answer`; until then it may fail."""
    deadline = time.monotonic() + limit_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = exchange(address)
        except ConnectionError as error:
            last = error
        if last == answer:
            return
        time.sleep(0.02)
    raise AssertionError(f"still {last!r}, not {answer!r}, after {limit_s:g} s")


@dataclass(slots=True)
class Traffic:
    """One exchange after another, in a thread."""

    address: SocketAddress
    done: int = 0
    failures: list[str] = field(default_factory=list[str])
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            data = f"number {self.done}".encode()
            try:
                answer = exchange(self.address, data)
            except OSError as error:
                self.failures.append(f"{self.done}: {error}")
            else:
                if answer != data:
                    self.failures.append(f"{self.done}: {answer!r}")
            self.done += 1

    def wait_more(self, count: int = 5) -> None:
        """Until `count` more exchanges are done."""
        goal, deadline = self.done + count, time.monotonic() + WAIT_LIMIT_S
        while self.done < goal:
            assert time.monotonic() < deadline, f"stuck at {self.done}: {self.failures[-1:]}"
            time.sleep(0.005)


@contextlib.contextmanager
def traffic(address: SocketAddress) -> Generator[Traffic]:
    """Echoes all the while; fails if one of them failed."""
    carried = Traffic(address)
    thread = threading.Thread(target=carried.run, name="traffic", daemon=True)
    thread.start()
    try:
        carried.wait_more()
        yield carried
        carried.wait_more()
    finally:
        carried.stop.set()
        thread.join(WAIT_LIMIT_S)
    assert not carried.failures, carried.failures
