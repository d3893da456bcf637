"""What the demo claims, one function each: it makes it happen, looks, and says what it saw.

A claim that does not hold raises `ClaimFailed`; nothing here is taken on trust.
"""

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import field
from pathlib import Path
from typing import Final

import orjson

from hbone.addr import SocketAddress
from hbone.app.demo.client import Client, download, echo_round_trip
from hbone.app.demo.stage import API, API_HOST, ECHO_HOST, IMPOSTOR_HOST, Stage
from hbone.app.demo.wire import tcp
from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.profile import new_serial
from hbone.errors import HboneError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import X509Svid
from hbone.net import handshake
from hbone.net.clock import SystemClock, new_key, system_rng
from hbone.net.tls import WANT, ReadBuffer
from hbone.net.tlscontext import TlsContexts
from hbone.times import Instant
from hbone.values import dataclass

MANY: Final = 200
BULK_MIB: Final = 256
ROTATION_LIMIT_S: Final = 14.0
CLIENT_ID, API_ID = "spiffe://cluster.local/ns/web/sa/client", "spiffe://cluster.local/ns/shop/sa/api"
JOB_ID = "spiffe://cluster.local/ns/batch/sa/job"


class ClaimFailed(HboneError):
    """What was claimed is not so."""


@dataclass(slots=True)
class Evidence:
    """What was seen, a line each; `quotes` are taken over word for word from a log or the wire."""

    seen: list[str] = field(default_factory=list[str])
    quotes: list[str] = field(default_factory=list[str])


def _require(condition: object, what: str, why: str = "") -> None:
    if not condition:
        raise ClaimFailed(what, why=why)


async def identities_are_proven(stage: Stage) -> Evidence:
    """A request by name; both nodes log who was at the other end, from its certificate."""
    body = await asyncio.to_thread(stage.client().get, API_HOST, 80)
    _require(body == "hello from the shop\n", "the HTTP server's answer did not arrive", repr(body))
    evidence = Evidence([f"GET http://{API_HOST}/ answered {body.strip()!r}, through node a, the wire and node b"])
    for node, side in ((stage.node_a, "outbound"), (stage.node_b, "inbound")):
        line = await stage.wait_access(node, f'direction="{side}"', f'src.identity="{CLIENT_ID}"')
        _require(f'dst.identity="{API_ID}"' in line, f"{node.name} did not see both identities", line)
        evidence.quotes.append(f"{node.name}: {_excerpt(line, ('src.identity', 'dst.identity', 'direction'))}")
    return evidence


async def half_close_works(stage: Stage) -> Evidence:
    """A program that ends its side and then reads the answer to the end."""
    payload = bytes(range(256)) * 2048

    def talk() -> bytes:
        with stage.client().connect(ECHO_HOST, 7) as sock:
            return echo_round_trip(sock, payload)

    received = await asyncio.to_thread(talk)
    _require(received == payload, "the echo came back changed", f"{len(received)} of {len(payload)} bytes")
    return Evidence(
        [f"{len(payload) // 1024} KiB to {ECHO_HOST} and back, byte for byte, after the client had ended its side"]
    )


async def connections_share_a_tunnel(stage: Stage) -> Evidence:
    """Many connections at once make one tunnel; another identity gets its own."""

    def hold(client: Client, count: int, stack: ExitStack) -> None:
        for _ in range(count):
            connection = client.http(API_HOST, 80)
            stack.callback(connection.close)
            connection.request("GET", "/")
            _require(connection.getresponse().read(), "an open connection got no answer")

    with ExitStack() as stack:
        await asyncio.to_thread(hold, stage.client(), MANY, stack)
        tunnels = stage.wire.connections
        renewed = len(serials(stage.control.journal_path)[CLIENT_ID]) - 1  # on a slow machine; each takes a new tunnel
        _require(1 <= tunnels <= 1 + renewed, f"{MANY} connections made {tunnels} tunnels instead of one")
        await asyncio.to_thread(hold, stage.job(), 10, stack)
        own = stage.wire.connections - tunnels
        _require(own == 1, f"another identity made {own} tunnels of its own instead of one")
    return Evidence([
        f"{MANY} connections of web/client open at once: {tunnels} TLS connection on the wire",
        "10 more of batch/job, another identity: 1 TLS connection of its own, none shared",
    ])  # fmt: skip


async def policy_decides(stage: Stage) -> Evidence:
    """A policy is written while a connection is open: it is cut, new ones are refused, others go on."""
    job, web = stage.job(), stage.client()
    with ExitStack() as stack:
        held = stack.enter_context(await asyncio.to_thread(job.connect, API_HOST, 80))
        held.settimeout(5)
        kept = stack.enter_context(await asyncio.to_thread(web.connect, API_HOST, 80))
        before = len(stage.node_b.lines())
        stage.deny_job()
        started = time.monotonic()
        ended = await asyncio.to_thread(_ending_of, held)
        seconds = time.monotonic() - started
        _require(ended == "reset", "the open connection of batch/job was not cut by the policy", ended)
        _require(await asyncio.to_thread(_try_get, job, API_HOST, 80) is None, "batch/job still reaches shop/api")
        line = await stage.wait_access(stage.node_b, "shop/no-batch-jobs", "explicitly denied", after=before)
        _require(line, "the denial left no line that names the policy")
        kept.sendall(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
        kept.settimeout(5)
        _require(await asyncio.to_thread(kept.recv, 4096), "the connection of web/client was cut too")
    stage.allow_job()
    deadline = time.monotonic() + 5
    while await asyncio.to_thread(_try_get, job, API_HOST, 80) is None:
        _require(time.monotonic() < deadline, "batch/job was not let in again when the policy was gone")
    return Evidence(
        [
            f"a policy denies batch/job: its open connection was reset {seconds:.1f} s after the file changed",
            "new connections of batch/job: refused; the one of web/client went on; without the policy all is as before",
        ],
        [f"node b: {_excerpt(line, ('src.identity', 'error'))}"],
    )


def _ending_of(sock: socket.socket) -> str:
    try:
        return "end" if sock.recv(1) == b"" else "bytes"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "nothing"


async def the_wire_shows_nothing(stage: Stage) -> Evidence:
    """A secret goes through; the eavesdropper looks at every byte for it, and for anything that is not TLS."""
    canary = stage.canary.decode()
    await asyncio.to_thread(stage.client().get, API_HOST, 80, f"/?secret={canary}")
    wire = stage.wire
    strange = [one.strange for one in wire.watched if one.strange]
    _require(not strange, "bytes on the wire are not TLS", repr(strange))
    _require(wire.records.get("application data", 0) > 2 * MANY, "the wire saw no traffic")
    _require(not wire.canary_seen, "the secret was on the wire in clear")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(wire.records.items()))
    return Evidence(
        [
            f"{wire.bytes_seen / 1024:.0f} KiB looked at, all of it TLS records: {kinds}",
            f"a request carried {canary[:14]}…; it is nowhere among them",
        ],
        [f"wire: {wire.sample[:20].hex(' ')} …"],
    )


async def strangers_are_turned_away(stage: Stage) -> Evidence:
    """Plaintext, a certificate of another CA, and a server with the wrong identity."""
    evidence = Evidence()
    node_b = SocketAddress.parse(f"{API}:{stage.ports.inbound_b}")
    strangers = (
        ("plain HTTP to the tunnel port", "plain HTTP", _plaintext),
        ("a certificate of another CA", "is not trusted", _foreign),
    )
    for what, why, attempt in strangers:
        before = len(stage.node_b.lines())
        said = await attempt(node_b, stage)
        line = await stage.wait_access(stage.node_b, "error=", why, after=before)
        _require(line, f"{what} left no line in the access log")
        evidence.seen.append(f"{what}: refused ({said})")
        evidence.quotes.append(f"node b: {_excerpt(line, ('error',))}")
    before = len(stage.node_a.lines())
    answer = await asyncio.to_thread(_try_get, stage.client(), IMPOSTOR_HOST, 443)
    line = await stage.wait_access(stage.node_a, "error=", "payments", after=before)
    _require(answer is None and line, "a server with the wrong identity was spoken to", answer or line)
    evidence.seen.append(f"{IMPOSTOR_HOST}, where something else than payments answers: refused before a byte was sent")
    evidence.quotes.append(f"node a: {_excerpt(line, ('error',))}")
    return evidence


async def _plaintext(address: SocketAddress, _: Stage) -> str:
    def attempt() -> str:
        with tcp(address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nhost: shop\r\n\r\n")
            try:
                answer = sock.recv(4096)
            except ConnectionResetError:
                return "connection reset"
        _require(not answer.startswith(b"HTTP"), "plain HTTP was answered", repr(answer))
        return f"TLS alert {answer[6]}" if len(answer) >= 7 and answer[0] == 21 else "connection closed"

    return await asyncio.to_thread(attempt)


async def _foreign(address: SocketAddress, stage: Stage) -> str:
    """It claims web/client, and trusts the mesh; but another CA has signed it."""
    clock, rng = SystemClock(), system_rng()
    domain = TrustDomain("cluster.local")
    ca = CertificateAuthority.create(domain, CaKeys(root=new_key(), intermediate=new_key()), now=clock.wall(), rng=rng)
    key = new_key()
    issued = ca.issue(key.public_key(), SpiffeId.parse(CLIENT_ID), ttl_s=60, now=clock.wall(), serial=new_serial(rng))
    roots = TrustBundle.from_pem(domain, (stage.control.ca_directory / "root-cert.pem").read_bytes())
    contexts = TlsContexts(X509Svid.of(issued.chain, key), roots)
    loop = asyncio.get_running_loop()
    sock = await asyncio.to_thread(tcp, address)
    try:
        tls = await handshake.connect(sock, contexts, expected=None, deadline=Instant(loop.time() + 3))
    except HboneError as error:
        return error.what
    try:
        for _ in range(300):
            if tls.read_into(ReadBuffer(20_000), 0) != WANT:
                break
            await asyncio.sleep(0.01)
    except HboneError as error:
        return error.what
    finally:
        tls.close()
    raise ClaimFailed("a certificate of another CA was accepted")


def _try_get(client: Client, host: str, port: int) -> str | None:
    try:
        return client.get(host, port)
    except OSError:
        return None


@dataclass(slots=True)
class Traffic:
    """Requests one after another, in a thread, until told to stop."""

    client: Client
    done: int = 0
    failures: list[str] = field(default_factory=list[str])
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                if self.client.get(API_HOST, 80) != "hello from the shop\n":
                    self.failures.append("a wrong answer")
            except OSError as error:
                self.failures.append(str(error))
            self.done += 1
            time.sleep(0.002)


async def rotation_loses_nothing(stage: Stage) -> Evidence:
    """Certificates are replaced while requests run and one connection stays open all the time."""
    journal = stage.control.journal_path
    held = await asyncio.to_thread(stage.client().connect, ECHO_HOST, 7)
    traffic = Traffic(stage.client())
    thread = threading.Thread(target=traffic.run, name="demo traffic")
    before = serials(journal)
    thread.start()
    try:
        renewed = await _wait_until(lambda: _renewed(before, serials(journal)), ROTATION_LIMIT_S)
        await asyncio.sleep(0.5)  # traffic with the new certificates
        held.sendall(b"still here")
        held.settimeout(3)
        alive = await asyncio.to_thread(held.recv, 64)
    finally:
        traffic.stop.set()
        await asyncio.to_thread(thread.join)
        held.close()
    _require(renewed, f"no new certificates within {ROTATION_LIMIT_S:g} s")
    _require(
        not traffic.failures, f"{len(traffic.failures)} of {traffic.done} requests failed", str(traffic.failures[:1])
    )
    _require(alive == b"still here", "the connection that was open did not survive")
    old, new = before[API_ID][-1], serials(journal)[API_ID][-1]
    return Evidence([
        f"shop/api and web/client have new certificates (shop/api: {old[:8]}… → {new[:8]}…)",
        f"{traffic.done} requests meanwhile, 0 failed; a connection from before went on undisturbed",
    ])  # fmt: skip


async def the_revoked_are_cut_off(stage: Stage) -> Evidence:
    """An identity is revoked while it has a connection open: that ends, and no new one comes; others go on."""
    job, web = stage.job(), stage.client()
    with ExitStack() as stack:
        held = stack.enter_context(await asyncio.to_thread(job.connect, API_HOST, 80))
        held.settimeout(5)
        kept = stack.enter_context(await asyncio.to_thread(web.connect, ECHO_HOST, 7))
        before = len(stage.node_b.lines())
        started = time.monotonic()
        await stage.control.ca.revoke(SpiffeId.parse(JOB_ID), "keyCompromise")
        ended = await asyncio.to_thread(_ending_of, held)
        seconds = time.monotonic() - started
        _require(ended == "reset", "the open connection of the revoked identity was not cut", ended)
        _require(
            await asyncio.to_thread(_try_get, job, API_HOST, 80) is None, "the revoked identity still gets through"
        )
        kept.settimeout(5)
        kept.sendall(b"still here")
        alive = await asyncio.to_thread(kept.recv, 64)
        _require(alive == b"still here", "the connection of web/client was cut too")
        line = await stage.wait_access(stage.node_b, "batch/sa/job", "error=", after=before)
    return Evidence(
        [
            f"{JOB_ID} was revoked: its open connection was reset {seconds:.1f} s later",
            "no new one of batch/job comes through; the one of web/client went on",
        ],
        [f"node b: {_excerpt(line, ('src.identity', 'error'))}"],
    )


def serials(journal: Path) -> dict[str, list[str]]:
    """The serial numbers that were issued, by identity, in order; from the control plane's journal."""
    found: dict[str, list[str]] = {}
    for line in journal.read_bytes().splitlines():
        entry = orjson.loads(line)
        if entry.get("serial"):
            found.setdefault(str(entry.get("spiffe_id")), []).append(str(entry["serial"]))
    return found


def _renewed(before: dict[str, list[str]], now: dict[str, list[str]]) -> bool:
    return all(len(now.get(one, [])) > len(before.get(one, [])) for one in (CLIENT_ID, API_ID))


async def _wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.05)
    return True


async def it_is_fast(stage: Stage) -> Evidence:
    """The eavesdropper leaves (a manifest changes, the nodes follow), then one download at full speed."""
    through_wire = stage.wire.connections
    stage.take_wire_out()
    changed = time.monotonic()

    def direct() -> bool:
        stage.client().get(API_HOST, 80)
        before = stage.wire.bytes_seen
        stage.client().get(API_HOST, 80)
        return stage.wire.bytes_seen == before

    while not await asyncio.to_thread(direct):
        _require(time.monotonic() - changed < 5, "the nodes did not follow the changed manifest")
        await asyncio.sleep(0.05)
    followed_s = time.monotonic() - changed
    bulk = await asyncio.to_thread(download, stage.client(), API_HOST, 80, BULK_MIB)
    _require(bulk.intact and bulk.size == BULK_MIB << 20, "the download is not what was sent", f"{bulk.size} bytes")
    _require(stage.wire.connections == through_wire, "a tunnel still went through the wire")
    return Evidence([
        f"the manifest changed, and both nodes followed within {followed_s:.1f} s",
        f"{BULK_MIB} MiB in {bulk.seconds:.2f} s, {bulk.gbit_per_s:.1f} Gbit/s through two proxies, SHA-256 equal",
    ])  # fmt: skip


def _excerpt(line: str, names: tuple[str, ...]) -> str:
    """The named fields of an access line."""
    found = [match.group(0) for name in names if (match := re.search(rf'{re.escape(name)}="(?:[^"\\]|\\.)*"', line))]
    return " ".join(found)


CLAIMS: Final = (
    ("Both ends know who the other is", identities_are_proven),
    ("TCP stays TCP: one direction may end while the other goes on", half_close_works),
    ("Connections share a tunnel, identities never do", connections_share_a_tunnel),
    ("The wire shows nothing but TLS", the_wire_shows_nothing),
    ("Policy decides, also about what is open", policy_decides),
    ("Strangers are turned away", strangers_are_turned_away),
    ("Certificates rotate under traffic", rotation_loses_nothing),
    ("Who is revoked is cut off", the_revoked_are_cut_off),
    ("It is fast, and follows the manifests", it_is_fast),
)
