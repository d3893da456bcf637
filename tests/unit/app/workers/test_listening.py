"""The sockets of all workers."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hbone.addr import SocketAddress, parse_ip
from hbone.app.workers.choice import runner_for, worker_count
from hbone.app.workers.listening import Listening, with_descriptors, workers_listen
from hbone.config.model import NodeSettings
from hbone.errors import UsageError
from hbone.net.sockets import bind_listener

OFF = dict.fromkeys(("inbound", "socks", "admin", "readiness", "metrics"), "off")


def settings(**listeners: Any) -> NodeSettings:
    forwards = [{"listen": "127.0.0.1:0", "to": "127.0.0.1:80"}]
    return NodeSettings.model_validate({"listeners": {**OFF, **listeners}, "forwards": forwards})


@contextmanager
def opened(given: NodeSettings, workers: int = 2) -> Generator[Listening]:
    listening = Listening(given, workers)
    listening.bind()
    try:
        yield listening
    finally:
        listening.unbind()


def address_of(listening: Listening, name: str) -> SocketAddress:
    (view,) = [view for view in listening.views() if view.name == name]
    return SocketAddress.parse(view.address)


def test_workers_listen_everywhere_but_where_the_operator_looks() -> None:
    given = settings(inbound="127.0.0.1:0", socks="127.0.0.1:0", admin="127.0.0.1:0", metrics="127.0.0.1:0")
    assert list(workers_listen(given)) == ["inbound", "socks", "forward 1"]


def test_each_worker_has_a_socket_of_its_own_at_the_same_address() -> None:
    with opened(settings(inbound="127.0.0.1:0")) as listening:
        one, two = listening.descriptors(1), listening.descriptors(2)
        assert set(one) == set(two) == {"inbound", "forward 1"}
        assert not set(one.values()) & set(two.values())
        for descriptors in (one, two):
            with socket.socket(fileno=socket.dup(descriptors["inbound"])) as sock:
                assert SocketAddress.of(sock.getsockname()) == address_of(listening, "inbound")


def test_a_unix_socket_is_shared_and_its_file_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "socks.sock"
    with opened(settings(socks=f"unix:{path}")) as listening:
        assert listening.descriptors(1)["socks"] == listening.descriptors(2)["socks"]
        assert str(path) in [view.address for view in listening.views()]
        listening.give_up(1)
        assert path.exists()
        assert listening.descriptors(1)["socks"] == listening.descriptors(2)["socks"]
    assert not path.exists()


def test_a_set_that_was_given_up_takes_no_connections_until_it_is_wanted_again() -> None:
    with opened(settings(inbound="127.0.0.1:0")) as listening:
        address = address_of(listening, "inbound")
        listening.give_up(1)
        listening.give_up(2)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((str(address.ip), address.port))
        listening.descriptors(2)
        socket.create_connection((str(address.ip), address.port)).close()


def test_a_second_node_at_the_same_port_is_refused_though_it_shares_ports_among_its_workers() -> None:
    with opened(settings(inbound="127.0.0.1:0")) as listening:
        taken = address_of(listening, "inbound")
        second = Listening(settings(inbound=str(taken)), 2)
        with pytest.raises(UsageError, match="cannot listen"):
            second.bind()
        assert second.views() == ()


def test_a_taken_port_gives_back_what_was_taken_before_it() -> None:
    with bind_listener(SocketAddress(parse_ip("127.0.0.1"), 0)) as other:
        taken = SocketAddress.of(other.getsockname())
        with opened(settings(inbound="127.0.0.1:0")) as probe:
            free = address_of(probe, "inbound")
        with pytest.raises(UsageError):
            Listening(settings(inbound=str(free), socks=str(taken)), 2).bind()
        bind_listener(free).close()


def test_a_worker_s_settings_survive_being_told() -> None:
    given = settings(inbound="127.0.0.1:0", admin="127.0.0.1:0")
    with opened(given) as listening:
        descriptors = listening.descriptors(2)
        worker = with_descriptors(given, descriptors)
        assert worker.listeners.admin is None
        assert str(worker.listeners.inbound) == f"fd:{descriptors['inbound']}"
        assert str(worker.forwards[0].listen) == f"fd:{descriptors['forward 1']}"
        assert NodeSettings.model_validate(worker.model_dump(mode="json")) == worker


def test_one_worker_is_the_node_of_one_process() -> None:
    from hbone.app.node import run_node
    from hbone.app.workers.agent import run_agent

    assert runner_for(NodeSettings()) is run_node
    assert runner_for(NodeSettings.model_validate({"workers": 2})) is run_agent
    assert worker_count(NodeSettings.model_validate({"workers": "auto"})) >= 1
