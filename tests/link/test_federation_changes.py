"""The partners of a control plane change while it runs: who is told, who is asked, and who is left in peace."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.control.caplane import DATABASE
from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.errors import InvalidConfiguration
from hbone.identity.bundle import BundleDocument, TrustBundle
from hbone.identity.spiffe import TrustDomain
from tests.support.bundleserver import BundleServer, bundle_server, context_of, saying
from tests.support.camesh import CaMesh
from tests.support.pki import SpiffeCA

X, Y, Z, NEW = (TrustDomain(f"{name}.test") for name in ("x", "y", "z", "new"))
RARELY_S = 3600
"""How often the endpoints ask to be looked at: any second look in a test is one too many."""


class Site:
    """Bundle endpoints by https_web, at one host."""

    def __init__(self, directory: Path) -> None:
        web = SpiffeCA(name="web")
        self.roots = directory / "web.pem"
        self.roots.write_bytes(web.cert.public_bytes(Encoding.PEM))
        self._context = context_of(web.svid("spiffe://web.test/site", dns=("localhost",)))

    @asynccontextmanager
    async def serving(self, document: BundleDocument) -> AsyncGenerator[BundleServer]:
        async with bundle_server(self._context, saying(document)) as server:
            yield server

    def partner(self, domain: str, server: BundleServer, **more: Any) -> dict[str, Any]:
        url = f"https://localhost:{server.port}/"
        return {"trust_domain": domain, "url": url, "profile": "https_web", "roots": self.roots, **more}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def document_of(name: str, sequence: int = 1) -> BundleDocument:
    return BundleDocument(roots=(SpiffeCA(name=name).cert,), sequence=sequence, refresh_hint_s=RARELY_S)


def mesh_of(directory: Path, *federation: dict[str, Any]) -> CaMesh:
    return CaMesh(directory / X, trust_domain=X, federation=list(federation))


def trusted(mesh: CaMesh) -> TrustBundle:
    return mesh.control.ca.trust.everybody


async def until_trusted(mesh: CaMesh, domain: TrustDomain, document: BundleDocument) -> None:
    await mesh.until(lambda: trusted(mesh).roots.get(domain) == document.roots)


def told(mesh: CaMesh) -> set[str]:
    """Of which trust domains every node hears."""
    return set(mesh.control.mesh.catalogues[TRUST_BUNDLE_TYPE].versions())


def on_disk(mesh: CaMesh) -> set[str]:
    with sqlite3.connect(mesh.state / DATABASE) as database:
        return {name for (name,) in database.execute("SELECT trust_domain FROM federated_bundles")}


async def test_a_domain_that_is_added_is_fetched_and_its_bundle_distributed(tmp_path: Path, site: Site) -> None:
    y = document_of("y")
    async with site.serving(y) as server, mesh_of(tmp_path) as mesh:
        await mesh.change(federation=[site.partner(Y, server)])
        await until_trusted(mesh, Y, y)
        assert told(mesh) == {X, Y}
        await mesh.restart()
        assert trusted(mesh).roots[Y] == y.roots, "it is on disk like any other"


async def test_a_domain_that_is_removed_is_trusted_and_asked_no_more(tmp_path: Path, site: Site) -> None:
    y = BundleDocument(roots=document_of("y").roots, sequence=1, refresh_hint_s=1)
    async with site.serving(y) as server, mesh_of(tmp_path, site.partner(Y, server)) as mesh:
        await until_trusted(mesh, Y, y)
        await mesh.change(federation=[])
        assert trusted(mesh).domains == {X}
        assert told(mesh) == {X}
        await mesh.until(lambda: on_disk(mesh) == set())
        asked = len(server.requests)
        await asyncio.sleep(1.2)  # it would have looked again by now
        assert len(server.requests) == asked
        # made anew on the other side: the operator removes and adds it, and its number may begin again
        await mesh.change(federation=[site.partner(Y, server)])
        await until_trusted(mesh, Y, y)


async def test_domains_of_whom_nothing_changed_are_not_asked_again_and_keep_their_bundle(
    tmp_path: Path, site: Site
) -> None:
    y, z = document_of("y"), document_of("z")
    async with site.serving(y) as of_y, site.serving(z) as of_z:
        first = site.partner(Y, of_y)
        async with mesh_of(tmp_path, first) as mesh:
            await until_trusted(mesh, Y, y)
            seen: list[bool] = []
            mesh.control.ca.trust.on_change(lambda _: seen.append(trusted(mesh).roots.get(Y) == y.roots))
            await mesh.change(federation=[first, site.partner(Z, of_z)])
            await until_trusted(mesh, Z, z)
            await mesh.change(federation=[site.partner(Z, of_z), first])
            await mesh.change(federation=[first])
            assert trusted(mesh).domains == {X, Y}
            assert seen, "others were told meanwhile"
            assert all(seen), "there was no moment without it"
            assert (len(of_y.requests), len(of_z.requests)) == (1, 1)


async def test_another_url_is_asked_at_once_and_the_former_bundle_holds_until_it_answers(
    tmp_path: Path, site: Site
) -> None:
    old, new = document_of("old"), document_of("new", sequence=2)
    async with site.serving(old) as before, site.serving(new) as after:
        mesh = mesh_of(tmp_path, site.partner(Y, before))
        async with mesh:
            await until_trusted(mesh, Y, old)
            after.serves(b"not ready")
            await mesh.change(federation=[site.partner(Y, after)])
            await mesh.until(lambda: "not JSON" in mesh.control.federation.views()[0].error)
            assert trusted(mesh).roots[Y] == old.roots
            after.serves(new)
            await until_trusted(mesh, Y, new)
            assert len(before.requests) == 1


async def test_aliases_of_a_domain_change_and_it_is_renamed_without_a_moment_of_distrust(
    tmp_path: Path, site: Site
) -> None:
    y = document_of("y")
    async with site.serving(y) as server, mesh_of(tmp_path, site.partner(Y, server)) as mesh:
        await until_trusted(mesh, Y, y)
        server.serves(b"away")
        await mesh.change(federation=[site.partner(Y, server, trust_domain_aliases=[NEW])])
        assert trusted(mesh).store(NEW) is not None
        assert trusted(mesh).roots[Y] == y.roots
        await mesh.change(federation=[site.partner(NEW, server, trust_domain_aliases=[Y])])
        assert trusted(mesh).roots[NEW] == y.roots
        assert told(mesh) == {X, NEW}
        await mesh.until(lambda: on_disk(mesh) == {NEW})
        await mesh.change(federation=[site.partner(NEW, server)])
        assert trusted(mesh).store(Y) is None
        assert trusted(mesh).roots[NEW] == y.roots


WRONG = {
    "no such file": None,
    "no bundle": b"nothing",
    "our own root": b"own",
    "a root of a partner": b"partner",
}


@pytest.mark.parametrize("what", WRONG)
async def test_partners_whose_file_is_wrong_change_nothing_at_all(what: str, tmp_path: Path, site: Site) -> None:
    y, file = document_of("y"), tmp_path / "z.json"
    async with site.serving(y) as server, mesh_of(tmp_path, site.partner(Y, server)) as mesh:
        await until_trusted(mesh, Y, y)
        if what == "our own root":
            file.write_text(mesh.control.ca.document())
        elif what == "a root of a partner":
            file.write_text(y.to_json())
        elif (content := WRONG[what]) is not None:
            file.write_bytes(content)
        others = [site.partner(Y, server, trust_domain_aliases=[NEW]), {"trust_domain": Z, "bundle": file}]
        with pytest.raises(InvalidConfiguration, match=r"z\.json"):
            await mesh.change(federation=others)
        assert trusted(mesh).domains == {X, Y}
        assert trusted(mesh).store(NEW) is None
        await mesh.until(lambda: on_disk(mesh) == {Y})
        server.serves(newer := document_of("newer", sequence=2))
        mesh.control.federation.refresh()
        await until_trusted(mesh, Y, newer)
        file.write_text(document_of("z").to_json())
        await mesh.change(federation=others)
        assert told(mesh) == {X, Y, Z}


async def test_a_file_of_a_domain_that_was_added_is_read_again_as_it_changes_until_it_is_removed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "y.json"
    first, second, third = (document_of(name) for name in ("first", "second", "third"))
    file.write_text(first.to_json())
    async with mesh_of(tmp_path) as mesh:
        await mesh.change(federation=[{"trust_domain": Y, "bundle": file}])
        assert trusted(mesh).roots[Y] == first.roots
        file.write_text(second.to_json())
        await until_trusted(mesh, Y, second)
        await mesh.change(federation=[])
        file.write_text(third.to_json())
        await asyncio.sleep(0.3)
        assert trusted(mesh).domains == {X}
        assert json.loads(await mesh.admin.document()) == json.loads(mesh.control.ca.document())
