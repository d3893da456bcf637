"""Bundles of other trust domains reach a SPIFFE client that others wrote (PyPI `spiffe`), and their tokens count."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from hbone.app.doors import WORKLOAD_SOCKET
from tests.support.camesh import CaMesh
from tests.support.federated import Town

pytestmark = pytest.mark.interop

spiffe_client: Any = pytest.importorskip("spiffe", reason="`make peers` installs the SPIFFE client")

X, Y = "x.test", "y.test"
ATTEST = [{"as": "shop/web", "uid": os.geteuid()}]

T = TypeVar("T")


async def asked(mesh: CaMesh, question: Callable[[Any], T]) -> T:
    """What a client of theirs is answered; it blocks, so it has a thread of its own."""

    def ask() -> T:
        with spiffe_client.WorkloadApiClient(f"unix://{mesh.state / WORKLOAD_SOCKET}") as client:
            return question(client)

    return await asyncio.to_thread(ask)


async def test_a_program_gets_the_roots_of_every_trust_domain_apart_from_each_other(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        x, y = await town.mesh(X, attest=ATTEST), await town.mesh(Y, attest=ATTEST)
        await town.exchange(x, y)
        bundles = await asked(x, lambda client: client.fetch_x509_bundles(timeout=10))
        for mesh in (x, y):
            bundle = bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(mesh.trust_domain))
            assert set(bundle.x509_authorities) == set(mesh.control.ca.trust.current.roots)
        await x.restart(federation=[])
        bundles = await asked(x, lambda client: client.fetch_x509_bundles(timeout=10))
        assert bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(Y)) is None


async def test_a_token_of_a_federated_trust_domain_is_valid_and_of_another_is_not(tmp_path: Path) -> None:
    async with Town(tmp_path) as town:
        x, y = await town.mesh(X, attest=ATTEST), await town.mesh(Y, attest=ATTEST)
        token = (await asked(y, lambda client: client.fetch_jwt_svid(audience={"db"}, timeout=10))).token

        def validate(client: Any) -> Any:
            return client.validate_jwt_svid(token, audience="db", timeout=10)

        with pytest.raises(Exception, match=rf"no keys of trust domain {Y} are known"):
            await asked(x, validate)
        await town.exchange(x, y)
        assert str((await asked(x, validate)).spiffe_id) == f"spiffe://{Y}/ns/shop/sa/web"
        bundles = await asked(x, lambda client: client.fetch_jwt_bundles(timeout=10))
        bundle = bundles.get_bundle_for_trust_domain(spiffe_client.TrustDomain(Y))
        there = spiffe_client.JwtSvid.parse_and_validate(token, bundle, {"db"})
        assert str(there.spiffe_id) == f"spiffe://{Y}/ns/shop/sa/web"
