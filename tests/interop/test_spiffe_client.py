"""The SPIFFE Workload API with a client that others wrote: the PyPI package `spiffe`, on grpcio."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hbone.control.attest_process import ProcessRule
from tests.support.camesh import CaMesh
from tests.support.controlplane import DOMAIN, spiffe
from tests.support.workloads import Local, workload_socket

pytestmark = pytest.mark.interop

spiffe_client: Any = pytest.importorskip("spiffe", reason="`make peers` installs the SPIFFE client")

WEB = spiffe("shop", "web")
OURS = ProcessRule(identity=WEB, uid=os.geteuid())

T = TypeVar("T")


async def asked(local: Local | str, question: Callable[[Any], T]) -> T:
    """What a client of theirs is answered; it blocks, so it has a thread of its own."""

    def ask() -> T:
        with spiffe_client.WorkloadApiClient(local if isinstance(local, str) else local.uri) as client:
            return question(client)

    return await asyncio.to_thread(ask)


async def test_it_reads_certificate_and_bundle(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local:
        svid = await asked(local, lambda client: client.fetch_x509_svid(timeout=10))
        assert str(svid.spiffe_id) == str(WEB)
        assert len(svid.cert_chain) == 2
        bundles = await asked(local, lambda client: client.fetch_x509_bundles(timeout=10))
        bundle = bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(DOMAIN))
        assert set(bundle.x509_authorities) == set(local.authority.roots)


async def test_it_sees_a_rotation(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local:
        seen: list[int] = []
        rotated = threading.Event()
        first = threading.Event()

        def watch() -> None:
            with spiffe_client.X509Source(socket_path=local.uri, timeout_in_seconds=10) as source:
                source.subscribe_for_updates(rotated.set)
                seen.append(source.get_x509_context().default_svid.leaf.serial_number)
                rotated.clear()
                first.set()
                assert rotated.wait(15), "no update came"
                seen.append(source.get_x509_context().default_svid.leaf.serial_number)

        watching = asyncio.create_task(asyncio.to_thread(watch))
        if not await asyncio.to_thread(first.wait, 15):
            await watching
        await local.rotate()
        await watching
        assert len(set(seen)) == 2


async def test_its_jwt_svids_are_fetched_validated_here_and_validated_there(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, OURS) as local:
        token = await asked(local, lambda client: client.fetch_jwt_svid(audience={"db"}, timeout=10))
        assert str(token.spiffe_id) == str(WEB)
        here = await asked(local, lambda client: client.validate_jwt_svid(token.token, audience="db", timeout=10))
        assert str(here.spiffe_id) == str(WEB)
        bundles = await asked(local, lambda client: client.fetch_jwt_bundles(timeout=10))
        bundle = bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(DOMAIN))
        there = spiffe_client.JwtSvid.parse_and_validate(token.token, bundle, {"db"})
        assert str(there.spiffe_id) == str(WEB)
        with pytest.raises(Exception, match=r"not for other"):
            await asked(local, lambda client: client.validate_jwt_svid(token.token, audience="other", timeout=10))


async def test_at_a_node_its_jwt_svids_are_fetched_validated_here_and_validated_there(tmp_path: Path) -> None:
    """The key that signs them is the control plane's; the node asks for them, and serves what it was given."""
    socket, attest = tmp_path / "w.sock", [{"as": "shop/web", "uid": os.geteuid()}]
    async with CaMesh(tmp_path / "mesh") as mesh:
        await mesh.node("shop/web", "127.0.93.9", workload_socket=socket, attest=attest)
        uri = f"unix://{socket}"
        token = await asked(uri, lambda client: client.fetch_jwt_svid(audience={"db", "cache"}, timeout=10))
        assert str(token.spiffe_id) == str(WEB)
        here = await asked(uri, lambda client: client.validate_jwt_svid(token.token, audience="db", timeout=10))
        assert str(here.spiffe_id) == str(WEB)
        bundles = await asked(uri, lambda client: client.fetch_jwt_bundles(timeout=10))
        bundle = bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(DOMAIN))
        there = spiffe_client.JwtSvid.parse_and_validate(token.token, bundle, {"db"})
        assert str(there.spiffe_id) == str(WEB)
        await mesh.stop()
        kept = await asked(uri, lambda client: client.fetch_jwt_svid(audience={"cache", "db"}, timeout=10))
        assert kept.token == token.token
        other = spiffe_client.SpiffeId("spiffe://cluster.local/ns/shop/sa/db")
        with pytest.raises(Exception, match="is not spiffe"):
            await asked(uri, lambda client: client.fetch_jwt_svid(audience={"db"}, subject=other, timeout=10))


async def test_it_is_told_that_it_has_no_identity(tmp_path: Path) -> None:
    async with workload_socket(tmp_path, ProcessRule(identity=WEB, uid=os.geteuid() + 1)) as local:
        with pytest.raises(Exception, match="no identity issued"):
            await asked(local, lambda client: client.fetch_x509_svid(timeout=10))
