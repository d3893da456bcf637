"""What a node stands on, gathered from its settings: who issues its certificates, and who tells it the mesh."""

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from hbone.app.options import mesh_names
from hbone.app.place import Place
from hbone.app.sources import FileSources
from hbone.config.model import NodeSettings
from hbone.config.refs import AccountRef
from hbone.control import cadir
from hbone.control.credentials import SvidSource
from hbone.control.issue import Issuer
from hbone.control.local_ca import LocalCa
from hbone.discovery.manifests import Defaults
from hbone.discovery.store import Source, Store
from hbone.errors import UsageError
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import TrustDomain
from hbone.net.balance import Balance
from hbone.net.clock import SystemClock, system_rng
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.control.channel import Endpoint
    from hbone.control.jwt_source import JwtSource
    from hbone.control.publish import Mesh
    from hbone.control.subscribe import Sink, Subscription
    from hbone.control.trust import Trust


def identity_source(settings: NodeSettings, place: Place, holder: str = "") -> tuple[SvidSource, "Endpoint | None"]:
    """Who issues this node's certificates, and the control plane that also tells it the mesh, if there is one.

    `jwt`: who signs JWT-SVIDs for the processes here, if anybody does.
    `keeps_certificates`: the source itself has them on disk, so nobody else need.
    `holder`: what the control plane is to know this node by, for one that takes trust bundles under that name.

    A CA directory when one is given, else a control plane on another machine, else the control socket, given or that
    of a running `hbone up`. Raises UsageError when there is none, InvalidConfiguration for a CA that is none.
    """
    clock = SystemClock()
    if settings.ca is not None:
        authority = cadir.load(settings.ca, TrustDomain(settings.trust_domain), clock=clock)
        issuer = Issuer(lambda: authority, clock=clock, rng=system_rng())
        return LocalCa(issuer, ttl_s=settings.svid_ttl_s), None
    remote = _remote_source(settings, place, holder)
    if remote is not None:
        return remote
    socket = settings.control_socket or place.control_socket
    if not socket.exists() and settings.cache_dir is None:  # with a cache it may come back later
        raise UsageError(
            "nobody is there to issue certificates",
            why=f"no CA directory is set, and no `hbone up` listens at {socket}",
            fix="start `hbone up`, or set `ca` to a directory with a CA's files (`--ca DIR`), or `ca_address`",
        )
    # gRPC costs 130 ms to import: a node with a CA directory does without
    from hbone.control.ca_client import CaClient
    from hbone.control.channel import UnixEndpoint

    endpoint = UnixEndpoint(socket)
    return CaClient(endpoint, ttl_s=settings.svid_ttl_s, holder=holder), endpoint


def _remote_source(settings: NodeSettings, place: Place, holder: str) -> "tuple[SvidSource, Endpoint] | None":
    in_cluster = bool(place.environment.get("KUBERNETES_SERVICE_HOST")) and not place.control_socket.exists()
    if settings.ca_address is None and settings.xds_address is None and not in_cluster:
        return None
    from hbone.app.bootstrap import bootstrap
    from hbone.control.ca_client import CaClient

    found = bootstrap(settings, place.environment)
    if found is None:
        return None
    info = settings.workload
    own = info.account.spiffe_id(settings.trust_domain) if info is not None else None
    return CaClient(found.ca, ttl_s=settings.svid_ttl_s, holder=holder, own=own), found.xds


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """Where the mesh is told, and whose word that counts as."""

    endpoint: "Endpoint"
    source: Source = Source.XDS


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeParts:
    """What a node stands on: its store, who issues its certificates, and where changes of the mesh come from.

    `files` are the node's own sources on disk, `endpoint` is a control plane to subscribe to, `mesh` the state of a
    control plane in the same process and `trust` what that has everybody trust; a node has any of these, or none.
    `feeds`: for a worker, what its agent tells in the name of each source; `balance`: how it shares connections.
    `holder`: what the control plane knows this node's certificates by. `on_trust` is told whom to trust from now on.
    """

    store: Store
    source: SvidSource
    endpoint: "Endpoint | None" = None
    feeds: tuple[Feed, ...] = ()
    files: FileSources | None = None
    mesh: "Mesh | None" = None
    trust: "Callable[[], Trust] | None" = None
    jwt: "JwtSource | None" = None
    keeps_certificates: bool = False
    holder: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    allow: tuple[AccountRef, ...] = ()
    on_trust: Callable[[TrustBundle], object] = lambda _: None
    balance: Balance | None = None


def parts_from(settings: NodeSettings, place: Place) -> NodeParts:
    """The parts of a node of its own; raises UsageError, InvalidConfiguration."""
    holder = new_holder()
    source, endpoint = identity_source(settings, place, holder)
    defaults = Defaults(trust_domain=settings.trust_domain, network=settings.network, cluster_id=settings.cluster_id)
    files = FileSources(
        manifests=settings.manifests,
        local_xds=settings.local_xds,
        defaults=defaults,
        names=mesh_names(settings),
        allow_empty=settings.allow_empty_mesh,
    )
    return NodeParts(
        store=Store(),
        source=source,
        endpoint=endpoint,
        files=files,
        jwt=_jwt_source(settings, source),
        holder=holder,
        environment=place.environment,
    )


def _jwt_source(settings: NodeSettings, source: SvidSource) -> "JwtSource | None":
    """Who issues the certificates, if processes are served here."""
    if settings.workload_socket is None:
        return None
    from hbone.control.ca_client import CaClient
    from hbone.control.jwt_client import JwtClient

    return JwtClient(source.endpoint) if isinstance(source, CaClient) else None


def new_holder() -> str:
    """A name for one holder of certificates, told to nobody but their CA."""
    return f"{system_rng().getrandbits(96):024x}"


def subscription_to(
    endpoint: "Endpoint", sinks: "Mapping[str, Sink]", settings: NodeSettings, parts: NodeParts
) -> "Subscription":
    """A node's subscription to a control plane."""
    from hbone.app.bootstrap import is_foreign, node_id, node_metadata
    from hbone.control.subscribe import Subscription
    from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
    from hbone.discovery.xds import HOLDER, Interest, NodeInfo

    node = NodeInfo(
        id=node_id(settings, parts.environment),
        metadata={**node_metadata(settings, parts.environment), HOLDER: parts.holder},
    )
    # an istiod does not know our type, and says nothing
    interests = {TRUST_BUNDLE_TYPE: Interest.IF_OFFERED} if is_foreign(endpoint) else None
    return Subscription(endpoint, node, sinks, system_rng(), interests=interests)
