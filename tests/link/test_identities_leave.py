"""A node's keys are those of the workloads that are here now."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from hbone.app.node import Node
from hbone.app.parts import NodeParts
from hbone.app.sources import FileSources
from hbone.config.model import NodeSettings
from hbone.config.sections import Logging
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Store
from hbone.telemetry.log import Logs
from tests.support.controlplane import spiffe
from tests.support.mesh import DirectIssuer, new_authority

WORKLOAD = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: {name}, namespace: shop}}
spec: {{address: {ip}, serviceAccount: {name}}}
"""
CART, JOB = spiffe("shop", "cart"), spiffe("shop", "job")


def write(directory: Path, **workloads: str) -> None:
    new = directory / ".new"
    new.write_text("---\n".join(WORKLOAD.format(name=name, ip=ip) for name, ip in workloads.items()))
    new.rename(directory / "mesh.yaml")


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.01)


async def test_the_key_of_an_identity_goes_when_its_last_workload_has_left_and_a_new_one_comes_with_it(
    tmp_path: Path,
) -> None:
    write(tmp_path, cart="127.0.72.1", job="127.0.72.2")
    off = dict.fromkeys(("inbound", "socks", "admin", "readiness", "metrics"), "off")
    settings = NodeSettings.model_validate({"mode": "shared", "manifests": tmp_path, "listeners": off})
    logs = Logs(Logging.model_validate({"access_log": "off", "log_level": "off"}))
    files = FileSources(manifests=tmp_path, defaults=Defaults())
    parts = NodeParts(store=Store(), source=DirectIssuer(new_authority()), files=files)
    try:
        async with Node(settings, parts, logs) as node:
            identities = node.dataplane.around.identities
            before = await identities.fetch(JOB)
            await identities.fetch(CART)
            write(tmp_path, cart="127.0.72.1")
            await until(lambda: JOB not in node.keeper)
            assert identities.current(JOB) is None
            assert identities.current(CART) is not None
            write(tmp_path, cart="127.0.72.1", job="127.0.72.2")
            await until(lambda: len(node.store.workloads()) == 2)
            assert (await identities.fetch(JOB)).generation > before.generation
    finally:
        logs.close()
