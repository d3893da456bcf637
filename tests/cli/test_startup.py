"""What a node loads before it is ready: time and memory of every start are mostly the modules that it imports."""

import json
from ipaddress import IPv4Address

import pytest

from tests.support.cafiles import ca_files
from tests.support.commands import Running, Sandbox
from tests.support.node import dedicated, mesh_file

CART = "shop/cart/cart"
NOT_YET = (
    # gRPC, stores, DNS, netlink, tables for people, frameworks: what a node without control plane has no use for
    *("grpclib", "google", "h2", "multidict", "dns", "pyroute2", "sqlite3", "rich", "prometheus_client", "httpx2"),
    *("anyio", "starlette", "uvicorn", "importlib.metadata", "email.message", "http.client", "multiprocessing"),
    "watchfiles",  # the watch over files is set up when nobody waits any more
    # our own parts for other commands
    *("hbone.bench", "hbone.app.demo", "hbone.app.control", "hbone.app.up", "hbone.admin.endpoints"),
    *("hbone.admin.client", "hbone.cli.output", "hbone.control.server", "hbone.control.rpc", "hbone.control.store"),
    *("hbone.control.subscribe", "hbone.proto", "hbone.policy.lint", "hbone.policy.explain"),
)
MAX_MODULES = 600  # 560 when this was written; a module costs a quarter of a millisecond


def ready(sandbox: Sandbox, **listeners: str) -> Running:
    """A node with a CA and a mesh in files; it tells what it imports."""
    address = IPv4Address("127.88.9.1")
    ca = ca_files(sandbox.directory / "ca")
    mesh = mesh_file(sandbox.directory, {CART: address}, hbone_port=15008)
    settings = dedicated(CART, ca=ca, mesh=mesh, inbound=f"{address}:0", **listeners)
    file = sandbox.write("node.yaml", json.dumps(settings))
    env = {"PYTHONPROFILEIMPORTTIME": "1", **{f"HBONE_{name.upper()}": place for name, place in listeners.items()}}
    running = sandbox.start("node", "--config", str(file), env=env)
    running.wait_for("\tready")
    return running


def loaded(running: Running) -> set[str]:
    """The modules that were imported before it said that it is ready."""
    before = running.err.partition("\tready")[0]
    return {line.rpartition("|")[2].strip() for line in before.splitlines() if line.startswith("import time:")}


def below(modules: set[str], package: str) -> list[str]:
    return sorted(name for name in modules if name == package or name.startswith(f"{package}."))


def test_a_node_without_a_control_plane_loads_nothing_that_it_does_not_use(sandbox: Sandbox) -> None:
    modules = loaded(ready(sandbox, readiness="127.0.0.1:0"))
    assert [found for package in NOT_YET for found in below(modules, package)] == []
    assert "hbone.admin.http" in modules
    assert len(modules) < MAX_MODULES


def test_a_node_without_listeners_for_its_operator_loads_no_http(sandbox: Sandbox) -> None:
    modules = loaded(ready(sandbox))
    assert below(modules, "h11") == below(modules, "hbone.admin.http") == []


@pytest.mark.parametrize("command", [["expose", "--help"], ["node", "--help"], ["up", "--help"], ["cert", "--help"]])
def test_the_help_of_a_command_loads_what_help_needs(sandbox: Sandbox, command: list[str]) -> None:
    done = sandbox.run(*command, env={"PYTHONPROFILEIMPORTTIME": "1"}).expect(0)
    modules = {line.rpartition("|")[2].strip() for line in done.err.splitlines() if line.startswith("import time:")}
    for package in (
        "asyncio",
        "cryptography",
        "pydantic",
        "yaml",
        "grpclib",
        "hbone.app",
        "hbone.proxy",
        "hbone.control",
    ):
        assert below(modules, package) == [], command
