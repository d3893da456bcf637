"""Connections go from one worker's listener to another: two workers' parts in one process, real sockets."""

import os
import resource
import socket
from collections.abc import Callable, Generator
from contextlib import closing

import pytest

from hbone.app.workers.balancing import BALANCES, Balancing
from hbone.net.balance import Balance
from hbone.net.tally import Allowance, Load
from hbone.times import Instant, WallTime

pytestmark = pytest.mark.skipif(not BALANCES, reason="needs Linux")


class Still:
    """A clock that stands: what may be handed on each second does not come back."""

    def now(self) -> Instant:
        return Instant(0.0)

    def wall(self) -> WallTime:
        return WallTime(0.0)


class Turns:
    """A watcher whose turns come when the test wants them."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], object]] = {}

    def add_reader(self, fd: int, handler: Callable[[], object], /) -> None:
        self.readers[fd] = handler

    def remove_reader(self, fd: int, /) -> None:
        del self.readers[fd]

    def turn(self) -> None:
        for handler in list(self.readers.values()):
            handler()


class Worker:
    """One worker: what came to its tunnels' and its programs' listener."""

    def __init__(self, balancing: Balancing, number: int) -> None:
        handed = balancing.handed(number)
        outboxes = [(other, os.dup(fd)) for other, fd in handed["outboxes"]]
        self.turns = Turns()
        self.tunnels: list[socket.socket] = []
        self.programs: list[socket.socket] = []
        self.fails = False
        inbox, tally = os.dup(handed["inbox"]), os.dup(handed["tally"])
        self.balance = Balance(number, Still(), tally=tally, inbox=inbox, outboxes=outboxes)
        self.accept_tunnel = self.balance.over(self._tunnel, Load.TUNNELS)
        self.accept_program = self.balance.over(self._program, Load.CONNECTIONS)
        self.balance.start(self.turns)

    def _tunnel(self, sock: socket.socket) -> None:
        if self.fails:
            raise RuntimeError("a fault of ours")
        self.tunnels.append(sock)
        self.balance.holds_tunnels(len(self.tunnels))

    def _program(self, sock: socket.socket) -> None:
        self.programs.append(sock)
        self.balance.holds_connections(len(self.programs))


@pytest.fixture
def balancing() -> Generator[Balancing]:
    with closing(Balancing(2)) as made:
        yield made


@pytest.fixture
def workers(balancing: Balancing) -> Generator[tuple[Worker, Worker]]:
    both = Worker(balancing, 1), Worker(balancing, 2)
    yield both
    for worker in both:
        worker.balance.close()
        for sock in worker.tunnels + worker.programs:
            sock.close()


def connection() -> tuple[socket.socket, socket.socket]:
    """A TCP connection: the caller's end and ours, as a listener gives it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        caller = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    ours.setblocking(False)
    return caller, ours


def accept(accepted: Callable[[socket.socket], None], other: Worker, count: int) -> list[socket.socket]:
    """`count` connections come to a listener, and the other one has a turn after each; the callers' ends."""
    callers: list[socket.socket] = []
    for _ in range(count):
        caller, ours = connection()
        callers.append(caller)
        accepted(ours)
        other.turns.turn()
    return callers


def test_tunnels_that_one_worker_accepts_are_spread_evenly(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    callers = accept(one.accept_tunnel, two, 5)
    assert (len(one.tunnels), len(two.tunnels)) == (3, 2)
    for sock in two.tunnels:
        sock.sendall(b"from two")
    assert sorted(caller.recv(8) for caller in (callers[1], callers[3])) == [b"from two"] * 2
    assert two.tunnels[0].gettimeout() == 0
    assert two.tunnels[0].getpeername() == callers[1].getsockname()
    for caller in callers:
        caller.close()


def test_a_connection_comes_to_the_same_listener_of_the_other_worker(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    callers = accept(one.accept_program, two, 6)
    assert (len(one.programs), len(two.programs), len(two.tunnels)) == (4, 2, 0)
    for caller in callers:
        caller.close()


def test_who_has_handed_on_many_at_once_keeps_what_comes_then(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    one.balance.holds_connections(1000)
    ends = [connection() for _ in range(Allowance.AT_ONCE + 4)]
    for _, ours in ends:
        one.accept_program(ours)
        two.turns.turn()
    assert (len(one.programs), len(two.programs)) == (4, Allowance.AT_ONCE)
    for caller, _ in ends:
        caller.close()


def test_a_worker_that_hangs_is_given_a_few_only(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    one.balance.holds_tunnels(1000)
    ends = [connection() for _ in range(40)]
    for _, ours in ends:
        one.accept_tunnel(ours)
        one.balance.holds_tunnels(1000)
    stayed = len(one.tunnels)
    for _ in range(10):
        two.turns.turn()
    assert 0 < len(two.tunnels) < 20
    assert stayed + len(two.tunnels) == 40
    for caller, _ in ends:
        caller.close()


def test_what_lay_in_the_mailbox_of_a_dead_worker_is_its_successor_s(balancing: Balancing) -> None:
    one, dead = Worker(balancing, 1), Worker(balancing, 2)
    one.balance.holds_tunnels(1)
    caller, ours = connection()
    one.accept_tunnel(ours)
    balancing.leave(2)  # it never comes to take it
    other, stays = connection()
    one.balance.holds_tunnels(5)
    one.accept_tunnel(stays)
    assert one.tunnels == [stays]  # nobody gives to one that is gone
    successor = Worker(balancing, 2)
    successor.turns.turn()
    assert len(successor.tunnels) == 1
    assert successor.tunnels[0].getpeername() == caller.getsockname()
    for sock in (caller, other, *one.tunnels, *successor.tunnels):
        sock.close()
    for worker in (successor, one, dead):
        worker.balance.close()


@pytest.mark.parametrize("first", [b"hello", b""])
def test_what_waits_for_one_that_is_given_up_is_reset(
    workers: tuple[Worker, Worker], balancing: Balancing, first: bytes
) -> None:
    one, two = workers
    one.balance.holds_tunnels(1)
    caller, ours = connection()
    if first:
        caller.sendall(first)
    one.accept_tunnel(ours)
    balancing.leave(2)
    balancing.give_up(2)
    with pytest.raises(ConnectionResetError):
        caller.recv(1)
    two.turns.turn()
    assert two.tunnels == []
    caller.close()


def test_what_is_given_to_a_worker_that_closes_is_reset(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    one.balance.holds_tunnels(1)
    caller, ours = connection()
    one.accept_tunnel(ours)
    two.balance.close()
    two.balance.close()
    with pytest.raises(ConnectionResetError):
        caller.recv(1)
    last, stays = connection()
    one.accept_tunnel(stays)
    assert one.tunnels == [stays]
    for sock in (caller, last):
        sock.close()


def test_after_its_close_a_worker_keeps_what_it_still_accepts(workers: tuple[Worker, Worker]) -> None:
    one, two = workers
    one.balance.holds_tunnels(3)
    one.balance.close()
    one.balance.holds_tunnels(4)
    caller, ours = connection()
    one.accept_tunnel(ours)
    assert (len(one.tunnels), two.tunnels) == (1, [])
    caller.close()


def test_a_worker_without_its_agent_is_not_kept_busy(workers: tuple[Worker, Worker], balancing: Balancing) -> None:
    one, two = workers
    balancing.close()
    one.balance.close()
    two.turns.turn()  # the end of its mailbox
    assert two.turns.readers == {}


def test_without_descriptors_a_connection_is_reset_and_said_to_be_lost(
    workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture
) -> None:
    one, two = workers
    one.balance.holds_tunnels(1)
    caller, ours = connection()
    one.accept_tunnel(ours)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        two.turns.turn()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert two.tunnels == []
    assert "connections from other workers are reset" in caplog.text
    with pytest.raises(ConnectionResetError):  # no clean end for what was cut
        caller.recv(1)
    caller.close()
    again, ours = connection()
    one.balance.holds_tunnels(5)
    one.accept_tunnel(ours)
    two.turns.turn()
    assert len(two.tunnels) == 1
    again.close()


def test_one_connection_s_fault_is_its_own(workers: tuple[Worker, Worker], caplog: pytest.LogCaptureFixture) -> None:
    one, two = workers
    two.fails = True
    one.balance.holds_tunnels(1)
    caller, ours = connection()
    one.accept_tunnel(ours)
    two.turns.turn()
    assert caller.recv(1) == b""
    assert "connection failed unexpectedly" in caplog.text
    assert two.turns.readers
    caller.close()
