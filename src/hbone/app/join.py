"""`hbone join`: this machine becomes part of a mesh, and works as a node of it.

A machine that is one workload registers itself, so the mesh finds it at its address; one that is a node serves the
workloads that the mesh places on it. Either way the machine's certificate is kept on disk (0600): it is what the next
start proves itself with. A machine that is one workload keeps the mesh and its registration too, and so starts again
while the control plane is away.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final

from hbone.addr import Authority, IpAddress, SocketAddress
from hbone.app.node import Node
from hbone.app.parts import NodeParts
from hbone.app.place import Place
from hbone.app.run import Stop, calm_collector
from hbone.config.listen import Listen
from hbone.config.load import Loaded, OriginKind
from hbone.config.model import NodeSettings
from hbone.control.backoff import reconnect_after
from hbone.control.ca_client import CaClient
from hbone.control.join import Member, enrol, same_mesh
from hbone.control.jwt_client import JwtClient
from hbone.control.lease import Granted, ServiceWish, Wish
from hbone.control.register import Registration
from hbone.control.renew import IdentityKeeper
from hbone.control.tokens import JoinToken
from hbone.discovery.model import HBONE_PORT
from hbone.discovery.store import Store
from hbone.errors import HboneError, Unreachable, UsageError
from hbone.net.clock import SystemClock, system_rng
from hbone.telemetry.log import Logs
from hbone.values import dataclass

log = logging.getLogger("hbone.node")

Say = Callable[[list[str]], None]

DIRECTORY: Final = "member"
CACHE: Final = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinSpec:
    """What was asked for. `token` None: go on as the member that this machine is. `exposes`: mesh port → where it
    really is; `address`: where the mesh reaches this machine, None for where it is seen to come from."""

    token: JoinToken | None
    settings: Loaded[NodeSettings]
    exposes: dict[int, SocketAddress]
    forwards: tuple[tuple[Listen, Authority], ...]
    address: IpAddress | None = None
    host: str = ""


async def run_join(spec: JoinSpec, place: Place, logs: Logs, stop: Stop, say: Say) -> int:
    """Join if need be, then work until `stop`; the exit code."""
    logs.batch_with(asyncio.get_running_loop().call_later)
    member = await stop.unless_set(_member(spec, place, say))
    if member is None:
        return 0
    async with AsyncExitStack() as undo:
        granted = None
        if not member.membership.node:
            granted = await stop.unless_set(_registered(undo, member, _wish(spec, member)))
            if granted is None:
                return 0
        settings = _settings(spec, member, granted)
        member.ttl_s, member.holder = settings.svid_ttl_s, f"{system_rng().getrandbits(96):024x}"
        node = Node(settings, await _parts(undo, settings, member, place), logs, stop.set)
        await undo.enter_async_context(node)
        await stop.unless_set(node.wait_ready())
        if not stop.is_set:
            calm_collector()
            say(_summary(member, granted, node))
            await stop.wait()
    return 0


async def _member(spec: JoinSpec, place: Place, say: Say) -> Member:
    """The membership that is there, or a new one by the token."""
    directory, clock, token = place.state / DIRECTORY, SystemClock(), spec.token
    try:
        member = Member.load(directory, clock)
    except UsageError:
        if token is None:
            raise
        member = None  # expired or damaged: that is what the token is for
    if member is not None:
        refusal = same_mesh(member, token) if token is not None else None
        if refusal is not None:
            raise refusal
        await _take_name(member, say)
        return member
    if token is None:
        raise UsageError(
            "this machine is no member of a mesh",
            why=f"nothing in {directory}",
            fix="give a token: `hbone token create --as NS/SA` prints one beside the control plane",
        )
    member = await enrol(token, directory, clock, ttl_s=spec.settings.settings.svid_ttl_s)
    say([f"joined {member.membership.identity.trust_domain} as {member.membership.identity}"])
    return member


async def _take_name(member: Member, say: Say) -> None:
    """After a rename of the mesh this machine is one under the new name; while it cannot be had, under the old one."""
    before = member.membership.identity
    try:
        await member.take_name()
    except HboneError as error:
        log.warning("the mesh's new name is not taken", extra={"identity": str(before), "error": str(error)})
    if member.membership.identity != before:
        say([f"the mesh is called {member.membership.identity.trust_domain} now: {member.membership.identity}"])


def _wish(spec: JoinSpec, member: Member) -> Wish:
    workload = member.membership.identity.workload
    if workload is None:
        raise UsageError(
            f"{member.membership.identity} is no workload's identity", fix="create a token with --as NS/SA"
        )
    services = (ServiceWish(hostname=spec.host, ports={port: port for port in spec.exposes}),) if spec.exposes else ()
    return Wish(
        namespace=workload[0],
        service_account=workload[1],
        addresses=(spec.address,) if spec.address is not None else (),
        hbone_port=_inbound_port(spec.settings.settings),
        services=services,
        group=member.membership.group,
    )


def _inbound_port(settings: NodeSettings) -> int:
    """Where tunnels arrive; 0 for nowhere."""
    listen = settings.listeners.inbound
    address = getattr(listen, "address", None)
    return int(address.port) if address is not None else HBONE_PORT if listen is not None else 0


async def _registered(undo: AsyncExitStack, member: Member, wish: Wish) -> Granted:
    """Hold a registration for as long as `undo`. A control plane that is away is waited for, unless this machine was
    registered before: then it goes on as what it was."""
    failures, kept = 0, await asyncio.to_thread(member.granted, wish)
    while True:
        try:
            registration = await undo.enter_async_context(Registration(member.endpoint, wish, system_rng(), kept=kept))
        except Unreachable as error:
            failures += 1
            if failures == 1:
                log.warning("control plane not reached, waiting for it", extra={"error": str(error)})
            await asyncio.sleep(reconnect_after(failures, system_rng()))
        else:
            if registration.granted != kept:
                await asyncio.to_thread(member.keep_grant, wish, registration.granted)
            return registration.granted


def _settings(spec: JoinSpec, member: Member, granted: Granted | None) -> NodeSettings:
    """The operator's, with what follows from the membership."""
    given = spec.settings
    values: dict[str, Any] = given.settings.model_dump(mode="json")
    values["trust_domain"] = member.membership.identity.trust_domain
    values["forwards"] = [
        *values["forwards"],
        *({"listen": str(listen), "to": str(target)} for listen, target in spec.forwards),
    ]
    if granted is None:
        values["node_name"] = member.membership.node
        return NodeSettings.model_validate(values)
    # its own key is on disk already; of what a node has, the operator decides
    values["cache_dir"] = values["cache_dir"] or str(member.directory / CACHE)
    namespace, account = granted.spiffe_id.workload or ("", "")
    workload = f"{namespace}/{granted.name}"
    values |= {"mode": "dedicated", "workload": f"{workload}/{account}"}
    values["exposes"] = [
        *values["exposes"],
        *({"workload": workload, "port": port, "to": str(target)} for port, target in spec.exposes.items()),
    ]
    own = granted.addresses[0] if granted.addresses else None
    if own is not None and own.is_loopback and given.origin("listeners.inbound").kind is OriginKind.DEFAULT:
        values["listeners"]["inbound"] = f"{own}:{_inbound_port(given.settings)}"  # several may be on one machine
    return NodeSettings.model_validate(values)


async def _parts(undo: AsyncExitStack, settings: NodeSettings, member: Member, place: Place) -> NodeParts:
    source: Member | CaClient = member
    if member.membership.node:
        # the node's own certificate carries no traffic; it is kept fresh because it proves who asks for the others
        keeper = await undo.enter_async_context(IdentityKeeper(member, SystemClock(), system_rng()))
        keeper.prefetch(member.membership.identity)
        source = CaClient(member.endpoint, ttl_s=settings.svid_ttl_s, holder=member.holder)
    return NodeParts(
        store=Store(),
        source=source,
        endpoint=member.endpoint,
        jwt=JwtClient(member.endpoint) if settings.workload_socket is not None else None,
        keeps_certificates=source is member,
        holder=member.holder,
        environment=place.environment,
        on_trust=member.trust,
    )


def _summary(member: Member, granted: Granted | None, node: Node) -> list[str]:
    lines = [f"{member.membership.identity} is up, a member of the mesh at {member.membership.address}"]
    if granted is not None:
        names = [*granted.hostnames, *map(str, granted.addresses)]
        lines.append(f"  known as         {', '.join(names)}")
    lines += [f"  {one.name:<15}  {one.address}" for one in node.dataplane.listeners()]
    return [*lines, f"  kept in          {member.directory}"]


def token_from(text: str, read: Callable[[], str], environment: str | None) -> JoinToken | None:
    """The token as given: itself, `-` for standard input, none for the environment's, if there is one."""
    if text == "-":
        text = read()
    text = text or environment or ""
    return JoinToken.parse(text) if text else None
