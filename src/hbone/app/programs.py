"""`hbone forward` and `hbone expose`: one program's way into the mesh, or the mesh's way to one local port.

Beside a running `hbone up` they register themselves over its socket, which also gives them their identity and the
mesh; the registration ends with the process. With a CA directory they stand alone, and manifests tell them the mesh.
"""

import asyncio
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from hbone.addr import Authority, SocketAddress
from hbone.app.node import Node
from hbone.app.parts import parts_from
from hbone.app.place import Place
from hbone.app.run import Stop, calm_collector
from hbone.config.listen import Listen, TcpListen
from hbone.config.model import NodeSettings
from hbone.config.refs import AccountRef
from hbone.control.channel import UnixEndpoint
from hbone.control.lease import Granted, ServiceWish, Wish
from hbone.control.register import Registration
from hbone.errors import UsageError
from hbone.net.clock import system_rng
from hbone.policy.model import Action, Destination
from hbone.telemetry.log import Logs
from hbone.values import dataclass

Say = Callable[[list[str]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a program belongs to a mesh: by a control socket (None: the usual place), or by a CA directory of its own.

    `settings` are further node settings, by name (`manifests`, `logging` …).
    """

    account: AccountRef
    ca: Path | None = None
    control_socket: Path | None = None
    trust_domain: str = "cluster.local"
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSpec:
    """Local listeners and where they lead."""

    member: Membership
    forwards: tuple[tuple[Listen, Authority], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExposeSpec:
    """Local ports that the mesh may reach: mesh port → where it really is.

    `listen` is where tunnels arrive when there is no control plane to assign an address; port 0 for any free one.
    `name`: the host name to be known by, empty for one made of the account. `require_rules`: not without a rule that
    says who may connect.
    """

    member: Membership
    ports: dict[int, SocketAddress]
    allow: tuple[AccountRef, ...]
    name: str
    listen: TcpListen
    require_rules: bool = False


OFF: dict[str, Any] = {
    "inbound": "off", "socks": "off", "admin": "off", "readiness": "off", "metrics": "off",
}  # fmt: skip


async def run_forward(spec: ForwardSpec, place: Place, logs: Logs, stop: Stop, say: Say) -> int:
    """Forward until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    member = spec.member
    async with AsyncExitStack() as undo:
        granted = await _register(undo, member, place, _wish(member.account))
        settings = _settings(member, granted, place) | {
            "listeners": OFF,
            "forwards": [{"listen": str(listen), "to": str(target)} for listen, target in spec.forwards],
        }
        node = Node(
            NodeSettings.model_validate(settings), parts_from(NodeSettings.model_validate(settings), place), logs
        )
        await undo.enter_async_context(node)
        await stop.unless_set(node.wait_ready())
        if not stop.is_set:
            calm_collector()
            say(_forwarded(spec, node))
            await stop.wait()
    return 0


def _forwarded(spec: ForwardSpec, node: Node) -> list[str]:
    identity = spec.member.account.spiffe_id(node.settings.trust_domain)
    places = {one.name: one.address for one in node.dataplane.listeners()}
    targets = enumerate((target for _, target in spec.forwards), 1)
    return [f"{places[f'forward {number}']} leads to {target} as {identity}" for number, target in targets]


async def run_expose(spec: ExposeSpec, place: Place, logs: Logs, stop: Stop, say: Say) -> int:
    """Expose until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    member = spec.member
    async with AsyncExitStack() as undo:
        port = _free_port() if member.ca is None else 0
        services = (ServiceWish(hostname=spec.name, ports={port: port for port in spec.ports}),)
        wish = replace(_wish(member.account), hbone_port=port, services=services)
        granted = await _register(undo, member, place, wish)
        inbound = f"{granted.addresses[0]}:{port}" if granted is not None else str(spec.listen)
        name = granted.name if granted is not None else member.account.service_account
        settings = _settings(member, granted, place) | {
            "listeners": {**OFF, "inbound": inbound},
            "exposes": [
                {"workload": f"{member.account.namespace}/{name}", "port": port, "to": str(target)}
                for port, target in spec.ports.items()
            ],
        }
        validated = NodeSettings.model_validate(settings)
        node = Node(validated, replace(parts_from(validated, place), allow=spec.allow), logs)
        await undo.enter_async_context(node)
        await stop.unless_set(node.wait_ready())
        if not stop.is_set:
            if spec.require_rules and not spec.allow:
                _require_rules(node, member.account, name)
            calm_collector()
            bound = next(one.address for one in node.dataplane.listeners() if one.name == "inbound")
            say(_exposed(spec, granted, bound, str(member.account.spiffe_id(node.settings.trust_domain))))
            await stop.wait()
    return 0


def _require_rules(node: Node, account: AccountRef, name: str) -> None:
    """That a policy of the mesh says who may connect; raises UsageError. Without one, everybody in the mesh may."""
    found = node.store.workloads_called(account.namespace, name)
    keys = tuple(key for workload in found for key in workload.authorization_policies)
    policies = node.policies.engine.applicable(Destination(account.namespace, keys))
    if not any(policy.action is Action.ALLOW and not policy.dry_run for policy in policies):
        raise UsageError(
            f"nothing says who may connect to {account}, so everybody in the mesh could",
            why="no --allow was given, no AuthorizationPolicy with action ALLOW is for it, and rules are required"
            " (--require-rules, HBONE_REQUIRE_RULES)",
            fix="add --allow NAMESPACE/ACCOUNT for each that may, for example --allow web/client",
        )


def _exposed(spec: ExposeSpec, granted: Granted | None, inbound: str, identity: str) -> list[str]:
    host = granted.hostnames[0] if granted is not None and granted.hostnames else inbound.rpartition(":")[0]
    lines = [f"{host}:{port} is {target}, as {identity}" for port, target in spec.ports.items()]
    if spec.allow:
        lines.append(f"  only for {', '.join(map(str, spec.allow))}")
    return [*lines, f"  tunnels arrive at {inbound}"]


async def _register(undo: AsyncExitStack, member: Membership, place: Place, wish: Wish) -> Granted | None:
    """Hold a registration for as long as `undo`; None without a control plane."""
    if member.ca is not None:
        return None
    path = member.control_socket or place.control_socket
    if not path.exists():
        raise UsageError(
            "no `hbone up` is running here",
            why=f"nothing at {path}",
            fix="start `hbone up` first, or stand alone with --ca DIR and --manifests DIR",
        )
    registration = await undo.enter_async_context(Registration(UnixEndpoint(path), wish, system_rng()))
    return registration.granted


def _wish(account: AccountRef) -> Wish:
    return Wish(namespace=account.namespace, service_account=account.service_account)


def _settings(member: Membership, granted: Granted | None, place: Place) -> dict[str, Any]:
    account = member.account
    if granted is None:
        return {**member.settings, "workload": str(account), "ca": member.ca, "trust_domain": member.trust_domain}
    return {
        **member.settings,
        "workload": f"{account.namespace}/{granted.name}/{account.service_account}",
        "control_socket": member.control_socket or place.control_socket,
        "trust_domain": granted.spiffe_id.trust_domain,
    }


def _free_port() -> int:
    """A port for tunnels, likely free on the address that will be assigned too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
