"""`hbone get` against a real window."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import yaml

from hbone.addr import SocketAddress, parse_ip
from hbone.admin.endpoints import Window
from hbone.admin.server import open_window
from hbone.cli.failures import main
from hbone.net.sockets import bind_listener, bind_unix_listener
from tests.unit.admin.sample import Sample, SampleLevels

Get = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def get(capsys: pytest.CaptureFixture[str]) -> Get:
    """Runs `hbone get …` in a thread, beside the window's loop: exit code, output, errors."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, ["get", *arguments], {})
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[str]:
    """The --node of a window over TCP."""
    sock = bind_listener(SocketAddress(parse_ip("127.0.0.1"), 0))
    place = str(SocketAddress.of(sock.getsockname()))
    server = await open_window(sock, Window(source=Sample(), levels=SampleLevels()))
    yield place
    await server.close()


async def test_a_table_is_aligned_and_says_what_people_ask_first(get: Get, node: str) -> None:
    code, out, _ = await get("workloads", "--node", node)
    head, cart, web = out.splitlines()
    assert code == 0
    assert head.split() == ["NAMESPACE", "NAME", "ADDRESSES", "ACCOUNT", "PROTOCOL", "HEALTH", "HERE", "WAYPOINT"]
    assert cart.split() == ["shop", "cart-0", "10.0.0.1", "cart", "HBONE", "Healthy", "yes", "-"]
    assert web.split() == ["web", "web-0", "10.0.0.2", "web", "TCP", "Healthy", "no", "-"]
    assert head.index("HEALTH") == cart.index("Healthy") == web.index("Healthy")


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("services",), ["cart.shop", "1/1", "80:8080"]),
        (("connections",), ["web-0", "2.0 KiB", "1m30s", "192.0.2.1:443"]),
        (("tunnels",), ["10.0.0.2:41000", "9.0s"]),
        (("certificates",), ["valid", "1h", "the CA is away"]),
        (("roots",), ["cluster.local", "abababababababab"]),
        (("listeners",), ["10.0.0.1:15008"]),
        (("process",), ["starting", "state manager", "1.2.3"]),
        (("conn",), ["web-0"]),
    ],
)
async def test_each_listing_has_its_table(get: Get, node: str, arguments: tuple[str, ...], shown: list[str]) -> None:
    code, out, _ = await get(*arguments, "--node", node)
    assert code == 0
    for text in shown:
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("workloads", "cart"), ["cart-0"]),
        (("workloads", "10.0.0.2"), ["web-0"]),
        (("workloads", "-n", "web"), ["web-0"]),
        (("workloads", "cart", "-n", "web"), []),
        (("services", "--namespace", "sho"), []),
        (("services", "--namespace", "shop"), ["cart"]),
    ],
)
async def test_filters_keep_what_fits(get: Get, node: str, arguments: tuple[str, ...], names: list[str]) -> None:
    _, out, _ = await get(*arguments, "--node", node, "-o", "json")
    assert [entry["name"] for entry in json.loads(out)] == names


async def test_the_namespace_of_a_connection_is_in_its_identities(get: Get, node: str) -> None:
    _, out, _ = await get("connections", "-n", "web", "--node", node, "-o", "json")
    assert [entry["tunnel"] for entry in json.loads(out)] == [7]


async def test_nothing_that_fits_is_said_so(get: Get, node: str) -> None:
    assert await get("workloads", "nobody", "--node", node) == (0, "none\n", "")


async def test_machines_get_all_fields(get: Get, node: str) -> None:
    _, out, _ = await get("tunnels", "--node", node, "-o", "yaml")
    (tunnel,) = yaml.safe_load(out)
    assert (tunnel["id"], tunnel["rtt_ms"]) == (7, None)
    _, out, _ = await get("process", "--node", node, "-o", "json")
    assert json.loads(out)["pid"] == 42


async def test_config_is_one_document(get: Get, node: str) -> None:
    _, out, _ = await get("config", "--node", node)
    document = yaml.safe_load(out)
    assert (document["config"], len(document["workloads"])) == ({"mode": "shared"}, 2)
    _, out, _ = await get("config", "--node", node, "-o", "json")
    assert json.loads(out) == document


async def test_a_running_up_is_found_by_its_state_directory(get: Get, tmp_path: Path) -> None:
    sock = bind_unix_listener(str(tmp_path / "admin.sock"))
    server = await open_window(sock, Window(source=Sample(), levels=SampleLevels()))
    try:
        for option in (("--state-dir", str(tmp_path)), ("--node", f"unix:{tmp_path / 'admin.sock'}")):
            code, out, _ = await get("listeners", *option)
            assert (code, "10.0.0.1:15008" in out) == (0, True)
    finally:
        await server.close()


async def test_no_node_there_is_exit_code_3_and_says_what_to_do(get: Get, tmp_path: Path) -> None:
    free = bind_listener(SocketAddress(parse_ip("127.0.0.1"), 0))
    place = str(SocketAddress.of(free.getsockname()))
    free.close()
    code, out, err = await get("workloads", "--node", place)
    assert (code, out) == (3, "")
    assert f"nothing answers at {place}: connection refused" in err
    assert "fix: start `hbone up`" in err
    code, _, err = await get("workloads", "--state-dir", str(tmp_path))
    assert code == 3
    assert "no such file or directory" in err


async def answering(text: bytes) -> asyncio.Server:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text)
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "it answers 404"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "its answer is not JSON"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it does not speak HTTP"),
    ],
)
async def test_something_else_on_that_port_is_told_apart(get: Get, text: bytes, why: str) -> None:
    async with await answering(text) as other:
        place = SocketAddress.of(other.sockets[0].getsockname())
        code, _, err = await get("workloads", "--node", str(place))
    assert code == 3
    assert f"what listens at {place} has no /workloads of hbone's: {why}" in err


async def test_half_an_answer_is_not_taken_for_the_whole(get: Get) -> None:
    half = b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n[]"
    async with await answering(half) as other:
        place = SocketAddress.of(other.sockets[0].getsockname())
        code, out, err = await get("workloads", "--node", str(place))
    assert (code, out) == (3, "")
    assert f"{place} cut its answer short" in err


def test_a_node_that_hangs_is_not_waited_for_long() -> None:
    from hbone.admin.client import ask
    from hbone.config.listen import TcpListen
    from hbone.errors import Unreachable

    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = TcpListen(SocketAddress.of(silent.getsockname()))
        with pytest.raises(Unreachable, match=r"no answer from 127\.0\.0\.1:\d+ within 0\.05 s"):
            ask([place], "/process", timeout_s=0.05)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("listeners", "-n", "shop"), "--namespace does not apply to listeners"),
        (("config", "cart"), "config is one document"),
        (("workloads", "--node", "localhost"), "'localhost' is not an address with a port"),
        (("workloads", "--node", "127.0.0.1:1", "--state-dir", "/x"), "both say whom to ask"),
        (("con",), "'con' is not one of"),
    ],
)
async def test_wrong_usage_is_exit_code_2(get: Get, arguments: tuple[str, ...], says: str) -> None:
    code, out, err = await get(*arguments)
    assert (code, out) == (2, "")
    assert says in err
