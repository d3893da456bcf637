"""Envoy gets its certificate and its roots by our SDS, and tunnels with them to a node of ours."""

import asyncio
import os
from pathlib import Path
from typing import Any, cast
from urllib.request import urlopen

import pytest

from hbone.bench.envoy import EnvoyClient
from hbone.bench.pki import Identity
from hbone.bench.ports import Ports
from hbone.bench.processes import Processes
from hbone.control.attest_process import ProcessRule
from hbone.identity.spiffe import SpiffeId
from tests.interop.certificates import MeshPki
from tests.interop.pairs import CLIENT, SERVER
from tests.support.envoy import Envoy, Settings, access_log_in, require_envoy
from tests.support.node import Node, dedicated, mesh_file
from tests.support.targets import http_server
from tests.support.workloads import workload_socket

pytestmark = pytest.mark.interop

UPDATES = "cluster.hbone.client_ssl_socket_factory.ssl_context_update_by_sds"


def by_sds(document: Settings, path: Path, *, kind: str = "GRPC") -> Settings:
    """`document` with all that its TLS contexts take from files taken from the SDS at `path` instead."""
    source = {
        "api_config_source": {
            "api_type": kind,
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "sds-grpc"}}],
        },
        "resource_api_version": "V3",
        "initial_fetch_timeout": "0s",
    }

    def changed(value: Any) -> Any:
        if isinstance(value, list):
            items = cast("list[Any]", value)  # type: ignore[redundant-cast] # for pyright
            return [changed(item) for item in items]
        if not isinstance(value, dict):
            return value
        found = {key: changed(item) for key, item in cast("dict[str, Any]", value).items()}
        if "tls_certificates" in found:
            del found["tls_certificates"]
            checks = dict(found.pop("validation_context"))
            del checks["trusted_ca"]
            found["tls_certificate_sds_secret_configs"] = [{"name": "default", "sds_config": source}]
            found["combined_validation_context"] = {
                "default_validation_context": checks,
                "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": source},
            }
        return found

    bootstrap = changed(document)
    bootstrap["node"] = {"id": "sidecar~127.0.0.1~client.shop~shop.svc.cluster.local", "cluster": "client.shop"}
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster: dict[str, Any] = {
        "name": "sds-grpc",
        "type": "STATIC",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "sds-grpc",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(path)}}}}]}],
        },
    }
    bootstrap["static_resources"]["clusters"].append(cluster)
    return dict(bootstrap)


@pytest.mark.parametrize("kind", ["GRPC", "DELTA_GRPC"])
async def test_envoy_tunnels_with_certificates_of_our_sds_and_takes_the_next_ones(
    kind: str, processes: Processes, pki: MeshPki, ports: Ports, tmp_path: Path
) -> None:
    require_envoy()
    host = ports.free_host()
    client = SpiffeId.for_workload(pki.domain, "shop", "client")
    tunnel = ports.free(host)
    workloads = {SERVER: host, CLIENT: host - 1}
    mesh = mesh_file(tmp_path, workloads, hbone_port=tunnel.port, domain=str(pki.domain))
    settings = {**dedicated(SERVER, ca=pki.directory, mesh=mesh, inbound=str(tunnel)), "trust_domain": str(pki.domain)}
    rule = ProcessRule(identity=client, uid=os.geteuid(), program="*envoy*")
    with http_server(str(host)) as target, Node(settings, processes) as node:
        async with workload_socket(tmp_path, rule) as local:
            local.authority = pki.authority
            end = EnvoyClient(
                routes={ports.free(): str(target)},
                admin=ports.free(),
                identity=Identity(spiffe_id=client, chain=tmp_path, key=tmp_path, root=tmp_path),
                server=tunnel,
                expected=pki.spiffe_id("server"),
                access_log=access_log_in(tmp_path, "envoy"),
            )
            envoy = Envoy(end, processes, config=by_sds(end.config(), local.socket, kind=kind))
            await asyncio.to_thread(envoy.start)
            try:
                assert await asyncio.to_thread(carried, end)
                before = envoy.stat(UPDATES)
                await local.rotate()
                await asyncio.to_thread(envoy.process.wait_until, lambda: envoy.stat(UPDATES) > before, 10)
                assert await asyncio.to_thread(carried, end)
            finally:
                await asyncio.to_thread(envoy.stop)
        lines = await asyncio.to_thread(node.wait_access, 1)
        assert str(client) in str(lines[0])


def carried(end: EnvoyClient) -> bytes:
    """A page, through the tunnel."""
    (entry,) = end.routes
    with urlopen(f"http://{entry}/", timeout=10) as answer:
        page: bytes = answer.read()
    return page
