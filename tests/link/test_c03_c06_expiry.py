"""The CA is away (users' scenario C3) and never comes back (C6): seen by a node's operator before anybody is hurt."""

import asyncio
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.camesh import LIMIT_S, CaMesh, Load, MeshNode, echo_app

TTL_S = 12.0
EXPIRY = re.compile(r'^hbone_svid_expiry_seconds\{identity="([^"]+)"\} (\S+)$', re.MULTILINE)
A = "spiffe://cluster.local/ns/web/sa/a"


def listeners(ip: str) -> dict[str, str]:
    """With the operator's windows."""
    return {"inbound": f"{ip}:0", "socks": "off", "admin": "off", "readiness": "127.0.0.1:0", "metrics": "127.0.0.1:0"}


async def get(node: MeshNode, name: str, path: str) -> tuple[int, str]:
    """Status and body of an answer of one of the node's windows."""
    window = node.node._windows  # pyright: ignore[reportPrivateUsage]  # where it listens is logged, not told
    address = next(one.address for one in window.views() if one.name == name)
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def expiry_s(node: MeshNode) -> float:
    """What the gauge says of the node's one identity."""
    _, body = await get(node, "metrics", "/metrics")
    ((identity, value),) = EXPIRY.findall(body)
    assert identity == A
    return float(value)


async def certified(node: MeshNode) -> None:
    """Until it has its first certificate: the CA must not go away before that."""
    async with asyncio.timeout(LIMIT_S):
        while not EXPIRY.search((await get(node, "metrics", "/metrics"))[1]):  # noqa: ASYNC110 - it comes when it comes
            await asyncio.sleep(0.02)


async def ready(node: MeshNode) -> tuple[int, str]:
    return await get(node, "readiness", "/healthz/ready")


async def until_true(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - of another's making
            await asyncio.sleep(0.02)


def spoken(caplog: pytest.LogCaptureFixture, phrase: str) -> list[str]:
    """How much of its life a certificate had spent, in each line with that phrase about A."""
    found = [record.__dict__ for record in caplog.records if record.message == phrase]
    return [str(one["life_spent"]) for one in found if one["identity"] == A]


@pytest.mark.slow
async def test_c3_while_the_ca_is_away_the_gauge_falls_and_the_operator_is_warned_and_nothing_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with CaMesh(tmp_path, ttl_s=TTL_S) as mesh, echo_app("127.0.2.1") as app:
        await mesh.node("shop/b", "127.0.2.1")
        a = await mesh.node("web/a", "127.0.2.2", to=str(app.address), listeners=listeners("127.0.2.2"))
        async with Load(a) as load:
            await certified(a)
            await mesh.stop()
            first = await expiry_s(a)
            assert TTL_S - 3 < first <= TTL_S
            await asyncio.sleep(1)
            assert 0.8 < first - await expiry_s(a) < 2
            await until_true(lambda: spoken(caplog, "certificate is not renewed") == ["50%"])
            assert (await ready(a))[0] == 200, "more than enough is left"
            await mesh.start()
            serial = a.serial
            await mesh.until(lambda: a.serial != serial)
            assert await expiry_s(a) > TTL_S - 2
            done = load.done
            await mesh.until(lambda: load.done > done + 10)
        assert load.failures == []


@pytest.mark.slow
async def test_c6_a_renewal_that_fails_for_ever_is_told_at_each_threshold_and_turns_readiness_red_before_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hbone.control")
    async with CaMesh(tmp_path, ttl_s=TTL_S) as mesh:
        a = await mesh.node("web/a", "127.0.2.2", listeners=listeners("127.0.2.2"))
        assert await ready(a) == (200, "ready\n")
        await certified(a)
        await mesh.stop()
        red: tuple[int, str] = (200, "")
        left_s = TTL_S
        async with asyncio.timeout(TTL_S + LIMIT_S):
            while red[0] == 200:
                await asyncio.sleep(0.05)
                red, left_s = await ready(a), await expiry_s(a)
        assert (red[0], "a certificate from the CA" in red[1]) == (500, True), red
        assert 0 < left_s <= 0.1 * TTL_S + 0.2
        await until_true(lambda: spoken(caplog, "certificate has ended and was not renewed") == ["100%"])
        assert await expiry_s(a) < 0
        assert spoken(caplog, "certificate is not renewed") == ["50%", "75%", "90%"]
        attempts = [one for one in caplog.records if one.message == "no certificate" and one.__dict__["identity"] == A]
        assert len(attempts) == 1, "the reason is said once, not at each attempt"
        await mesh.start()
        async with asyncio.timeout(LIMIT_S):
            while (await ready(a))[0] != 200:  # noqa: ASYNC110 - renewals come when they come
                await asyncio.sleep(0.05)
