"""Every setting of every process, once: name, type, default, meaning, and how a change applies.

Units end the names (`_s`, `_bytes`). What a value must look like is in `fields.py`, what must fit together in
`check.py`. Any setting can also be given as the environment variable HBONE_<NAME IN CAPITALS>, hence no name is
used twice in one model.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from hbone.addr import SocketAddress, parse_ip
from hbone.config import tokenfile
from hbone.config.federated import BundleEndpoint, FederatedDomain
from hbone.config.fields import (
    Account,
    Applies,
    Count,
    DomainName,
    DomainNames,
    Duration,
    FrameRate,
    ListenSetting,
    NamespaceName,
    OptionalListen,
    OptionalWorkloadInfo,
    Pattern,
    Settings,
    Target,
    WorkloadName,
    required,
    setting,
    split,
)
from hbone.config.listen import TcpListen
from hbone.config.sections import Frames, Http2, Limits, Logging, Tcp, Timeouts
from hbone.protocol.limits import Rate

LIVE, DRAIN, RESTART = Applies.LIVE, Applies.DRAIN, Applies.RESTART


def _tcp(ip: str, port: int) -> TcpListen:
    return TcpListen(SocketAddress(parse_ip(ip), port))


class Listeners(Settings):
    """Where to listen: `ADDRESS:PORT`, `unix:/PATH`, `fd:N` (handed down), or `off`."""

    inbound: OptionalListen = setting(_tcp("0.0.0.0", 15008), "HBONE tunnels of other nodes", DRAIN)
    inbound_plaintext: OptionalListen = setting(
        None, "plaintext captured on its way to a workload here (port 15006 by custom)", DRAIN
    )
    outbound: OptionalListen = setting(
        None, "connections captured on their way out of a workload here (port 15001 by custom)", DRAIN
    )
    socks: OptionalListen = setting(
        _tcp("127.0.0.1", 15080), "SOCKS5 and HTTP CONNECT for programs that are not captured", DRAIN
    )
    admin: OptionalListen = setting(
        _tcp("127.0.0.1", 15000), "the operator's window; it has no password: loopback or a Unix socket", RESTART
    )
    readiness: OptionalListen = setting(
        _tcp("127.0.0.1", 15021), "GET /healthz/ready; 0.0.0.0:15021 for a probe from elsewhere", RESTART
    )
    metrics: OptionalListen = setting(
        _tcp("127.0.0.1", 15020), "GET /metrics; 0.0.0.0:15020 for a scraper on another machine", RESTART
    )


class Forward(Settings):
    """A local port that leads to one mesh destination."""

    listen: ListenSetting = required("where programs connect, for example 127.0.0.1:8080")
    to: Target = required("HOST:PORT in the mesh, a name or an address")
    account: Account | None = Field(
        default=None, alias="as", description="NAMESPACE/ACCOUNT to connect as; by default the node's own workload"
    )


class Expose(Settings):
    """Where the connections for one port of a workload here really go."""

    workload: WorkloadName = required("NAMESPACE/NAME of a workload on this node")
    port: Annotated[Count, Field(ge=1, le=65_535)] = required("the port that peers ask for")
    to: Target = required("HOST:PORT to connect to instead of the workload's address and that port")


def _worker_count(value: Any) -> Any:
    """A number, `auto`, or ztunnel's 0, which is as many as there are cores too."""
    count: object = int(value) if isinstance(value, str) and value.strip().isdigit() else value
    if count == "auto" or (type(count) is int and 0 <= count <= 256):
        return count or "auto"
    fix = "write a number from 1 to 256, or auto for one a core"
    raise PydanticCustomError("hbone", "{what}", {"what": f"{value!r} is not a number of workers", "fix": fix})


Workers = Annotated[
    int | Literal["auto"],
    BeforeValidator(_worker_count),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1, "maximum": 256}, {"const": "auto"}]}),
]


TokenSource = Annotated[str, PlainSerializer(tokenfile.shown, return_type=str)]


_ALLOW_EMPTY = (
    "take manifests that hold nothing any more; otherwise that counts as a mistake, and what they held stays in force"
)


class Attest(Settings):
    """Which processes of this machine have an identity: all that is given must hold."""

    account: Account = Field(alias="as", description="NAMESPACE/ACCOUNT that they have")
    uid: Count | None = setting(None, "user id", ge=0)
    gid: Count | None = setting(None, "group id", ge=0)
    pid: Count | None = setting(None, "process id", ge=1)
    cgroup: str = setting("", "pattern of the control group, for example */docker/4f5e*")
    program: str = setting("", "pattern of the program's file, for example /usr/bin/envoy")
    hint: str = setting("", "what the identity is for, told to programs that have several")


class GrantRule(Settings):
    """A user of this machine, and whom its programs may be in the mesh."""

    uid: Count = required("user id")
    accounts: Annotated[tuple[Pattern, ...], BeforeValidator(split)] = Field(
        alias="as", min_length=1, description="what they may have: NAMESPACE/ACCOUNT, NAMESPACE/* or *"
    )


class NodeSettings(Settings):
    """A node proxy (`node.yaml`)."""

    mode: Literal["dedicated", "shared"] = setting(
        "shared",
        "dedicated: everything here is one workload, named by `workload` (and the mode when that is given); "
        "shared: the workload is known by its source address",
        env=("PROXY_MODE",),
    )
    workload: OptionalWorkloadInfo = setting(
        None,
        "NAMESPACE/NAME/ACCOUNT that a dedicated node works for; NAME may be left out",
        env=("PROXY_WORKLOAD_INFO",),
    )
    trust_domain: DomainName = setting("cluster.local", "trust domain of the identities here", env=("TRUST_DOMAIN",))
    trust_domain_aliases: DomainNames = setting(
        (), "further names of this trust domain, of before and after a rename: whoever has one is the same workload, "
        "here and in policies",
    )  # fmt: skip
    root_namespace: NamespaceName = setting("istio-system", "namespace whose policies are for the whole mesh")
    network: str = setting("", "name of the network this node is in", env=("NETWORK",))
    node_name: str = setting("", "name of this node, as in the workloads' `node`", env=("NODE_NAME",))
    cluster_id: str = setting("Kubernetes", "name of this cluster", env=("ISTIO_META_CLUSTER_ID", "CLUSTER_ID"))
    cluster_domain: str = setting("cluster.local", "DNS suffix of services", env=("CLUSTER_DOMAIN",))

    manifests: Path | None = setting(
        None, "directory of WorkloadEntry, ServiceEntry, Service … manifests, re-read when it changes", LIVE
    )
    allow_empty_mesh: bool = setting(False, _ALLOW_EMPTY)
    local_xds: Path | None = setting(
        None, "file of workloads, services and policies in ztunnel's local form, re-read when it changes", LIVE,
        env=("LOCAL_XDS_PATH",),
    )  # fmt: skip
    ca: Path | None = setting(
        None, "directory with a CA's files (ca-cert.pem, ca-key.pem, root-cert.pem, cert-chain.pem): "
        "this node issues its own certificates",
    )  # fmt: skip
    control_socket: Path | None = setting(
        None, "Unix socket of a running `hbone up` that issues certificates; by default the one in its state directory"
    )
    ca_address: str | None = setting(
        None,
        "HOST:PORT of a control plane that issues certificates by TLS, an istiod for one; by default xds_address",
        env=("CA_ADDRESS",),
    )
    xds_address: str | None = setting(
        None, "HOST:PORT of the control plane that tells the mesh; by default ca_address", env=("XDS_ADDRESS",)
    )
    ca_root: str = setting(
        "./var/run/secrets/istio/root-cert.pem", "who vouches for ca_address: a PEM file, PEM text, or SYSTEM",
        env=("CA_ROOT_CA",),
    )  # fmt: skip
    xds_root: str | None = setting(None, "the same for xds_address; by default ca_root", env=("XDS_ROOT_CA",))
    ca_alt_name: str | None = setting(
        None, "another host name that the certificate of ca_address may have", env=("ALT_CA_HOSTNAME",)
    )
    xds_alt_name: str | None = setting(None, "the same for xds_address", env=("ALT_XDS_HOSTNAME",))
    auth_token: TokenSource = setting(
        "./var/run/secrets/tokens/istio-token", "file of the token to show there, read for each call; or the token",
        env=("AUTH_TOKEN",),
    )  # fmt: skip
    cache_dir: Path | None = setting(
        None, "directory where certificates with their keys, trust and the mesh are kept (mode 0600), so that a "
        "restart works while the control plane is away; by default only `hbone join` as one workload keeps its own",
    )  # fmt: skip
    svid_ttl_s: Duration = setting(86_400.0, "lifetime asked for certificates", LIVE, env=("SECRET_TTL",), ge=1)
    workload_socket: Path | None = setting(
        None, "Unix socket of the SPIFFE Workload API and of SDS for the processes of this machine; by default none"
    )
    attest: tuple[Attest, ...] = setting(
        (), "which of them have which identity, as far as the control plane gives it to this node"
    )

    listeners: Listeners = setting(Listeners, "where to listen")
    forwards: tuple[Forward, ...] = setting((), "local ports that lead to mesh destinations", DRAIN)
    exposes: tuple[Expose, ...] = setting((), "ports of workloads here that are served somewhere else", LIVE)

    timeouts: Timeouts = setting(Timeouts, "how long to wait for what")
    tcp: Tcp = setting(Tcp, "options of TCP sockets")
    http2: Http2 = setting(Http2, "what tunnels announce")
    limits: Limits = setting(Limits, "what others can make this node hold")
    frames: Frames = setting(Frames, "what one peer may send in one tunnel")
    logging: Logging = setting(Logging, "log and access log")

    ipv6_enabled: bool = setting(True, "also listen on and connect to IPv6 addresses", DRAIN, env=("IPV6_ENABLED",))
    response_baggage: bool = setting(
        True, "describe the destination to the caller in the answer to CONNECT", LIVE, env=("ENABLE_RESPONSE_BAGGAGE",)
    )
    workers: Workers = setting(1, "processes that share the work: a number or auto", env=("ZTUNNEL_WORKER_THREADS",))

    @model_validator(mode="before")
    @classmethod
    def _workload_means_dedicated(cls, data: Any) -> Any:
        if isinstance(data, dict):
            given = cast("dict[str, Any]", data)
            if given.get("workload") is not None and given.get("mode") is None:
                return {**given, "mode": "dedicated"}
        return cast("Any", data)


Accounts = Annotated[tuple[Account, ...], BeforeValidator(split)]


class JwtIssuer(Settings):
    """One issuer of tokens that callers may show, a Kubernetes cluster for one."""

    issuer: str = required("what the tokens say in `iss`, to the letter")
    audiences: tuple[str, ...] = setting(("istio-ca",), "one of these must be in a token's `aud`")
    jwks: str = required("the issuer's keys, a JWK set: an https:// URL, or a file that is read again as it changes")
    jwks_roots: Path | None = setting(None, "PEM file of roots for that URL; by default the system's")
    subjects: dict[str, Account] = Field(
        default_factory=dict,
        description="what `sub` says, and the NAMESPACE/ACCOUNT that it stands for; Kubernetes' service accounts "
        "stand for themselves",
    )


class ControlListeners(Settings):
    """Where the control plane listens: `ADDRESS:PORT`, `unix:/PATH`, `fd:N`, or `off`."""

    control_tls: OptionalListen = setting(
        None, "nodes of other machines, by TLS (port 15012 by custom); `hbone control` opens 0.0.0.0:15012 by itself"
    )
    control_plaintext: OptionalListen = setting(
        None, "the same in plaintext (port 15010 by custom), on loopback only: for proxies that cannot do TLS"
    )
    bundles: OptionalListen = setting(
        None, "this trust domain's bundle for other trust domains, by HTTPS (port 8443 by custom)"
    )
    admin: OptionalListen = setting(
        _tcp("127.0.0.1", 15014), "metrics and the operator's window; it has no password: loopback or a Unix socket"
    )


class Pkcs11(Settings):
    """A token that holds the CA's keys: an HSM, a smart card, SoftHSM. Needs `pip install 'hbone[pkcs11]'`."""

    module: Path = required("the shared library that speaks to the token, for example /usr/lib/softhsm/libsofthsm2.so")
    token: str = required("the token's label")
    pin_file: Path = required("file with the user's pin, readable by this user only")


class ControlSettings(Settings):
    """A control plane (`control.yaml`)."""

    trust_domain: DomainName = setting("cluster.local", "trust domain that this CA vouches for")
    trust_domain_aliases: DomainNames = setting(
        (), "further names of this trust domain, of before and after a rename: whoever has one is the same workload, "
        "here and in policies",
    )  # fmt: skip
    root_namespace: NamespaceName = setting("istio-system", "namespace whose policies are for the whole mesh")
    network: str = setting("", "network of workloads that name none")
    cluster_id: str = setting("Kubernetes", "cluster of workloads that name none")
    cluster_domain: str = setting("cluster.local", "DNS suffix of services")
    manifests: Path | None = setting(None, "directory of manifests; what is in it is re-read when it changes")
    allow_empty_mesh: bool = setting(False, _ALLOW_EMPTY)
    state_dir: Path | None = setting(
        None, "where state is kept, mode 0700; by default $XDG_STATE_HOME/hbone, /var/lib/hbone for root"
    )
    ca: Path | None = setting(
        None, "directory with a CA's files (Istio's names) to issue from; by default one is made in the state directory"
    )
    pkcs11: Pkcs11 | None = setting(
        None, "token that holds the keys of the CA made here; by default they are files in the state directory"
    )
    socket: Path | None = setting(
        None, "Unix socket for nodes and commands on this machine; by default control.sock in the state directory"
    )
    advertise: str = setting(
        "", "HOST:PORT at which other machines reach this control plane, for join tokens; by default its listener's"
    )
    server_names: tuple[str, ...] = setting(
        (), "host names and addresses that clients call this control plane by, besides localhost and istiod's"
    )
    jwt_issuers: tuple[JwtIssuer, ...] = setting((), "whose tokens are taken as proof")
    node_accounts: Accounts = setting(
        (), "NAMESPACE/ACCOUNT of node proxies, which may have the identities of workloads on their own node",
        env=("CA_TRUSTED_NODE_ACCOUNTS",),
    )  # fmt: skip
    bundle_endpoint: BundleEndpoint = setting(BundleEndpoint, "how this trust domain's bundle is served to others")
    federation: tuple[FederatedDomain, ...] = setting((), "other trust domains whose identities are accepted", LIVE)
    grants: tuple[GrantRule, ...] = setting(
        (), "which other users of this machine may have which identities at `socket`; by default none but the user who "
        "runs the control plane, and root",
    )  # fmt: skip
    attest: tuple[Attest, ...] = setting((), "which processes of this machine have which identity")
    workload_socket: Path | None = setting(
        None, "Unix socket of the SPIFFE Workload API and of SDS; by default workload.sock in the state directory, "
        "if `attest` has rules",
    )  # fmt: skip
    group_grace_s: Duration = setting(
        10.0,
        "how long a member of a WorkloadGroup stays in the mesh, unhealthy, once its machine's connection is lost",
    )
    svid_ttl_s: Duration = setting(86_400.0, "lifetime of certificates that ask for none", LIVE, ge=1)
    max_svid_ttl_s: Duration = setting(86_400.0 * 90, "longest lifetime that is granted", LIVE, ge=1)
    jwt_svid_ttl_s: Duration = setting(300.0, "lifetime of JWT-SVIDs; none can be revoked", LIVE, ge=1, le=3600)
    root_ttl_s: Duration = setting(86_400.0 * 3650, "lifetime of a root certificate made here", ge=60)
    intermediate_ttl_s: Duration = setting(86_400.0 * 365, "lifetime of an intermediate certificate made here", ge=60)
    certificate_rate: FrameRate = setting(
        Rate(burst=2000, per_s=200),
        "certificates that one caller (a user of this machine, a node) may ask for, and as many JWT-SVIDs",
    )
    listeners: ControlListeners = setting(ControlListeners, "where to listen")
    logging: Logging = setting(Logging, "log")
