"""Configurations of Envoy as the two ends of an HBONE tunnel.

Facts that took trying (Envoy 1.40): plain CONNECT needs `upgrade_configs` on the connection manager and on the
route, `allow_connect` concerns only the extended CONNECT of RFC 8441; an ORIGINAL_DST cluster dials the address
in `:authority` and answers 503 to a host name; a listener's backlog is 128 unless said otherwise; two Envoys on
one machine need `--disable-hot-restart`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from hbone.addr import SocketAddress
from hbone.bench.pki import TRUST_DOMAIN, Identity
from hbone.bench.tools import ENVOY
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.values import dataclass

Json = dict[str, object]

API = "type.googleapis.com/envoy.extensions"
MANY = 100_000
BACKLOG = 4096
STREAM_WINDOW_BYTES = 4 << 20
CONNECTION_WINDOW_BYTES = 16 << 20
SERVER_LOG = (
    "%REQ(:METHOD)% %REQ(:AUTHORITY)% %RESPONSE_CODE% %RESPONSE_FLAGS% peer=%DOWNSTREAM_PEER_URI_SAN% "
    "tls=%DOWNSTREAM_TLS_VERSION%/%DOWNSTREAM_TLS_CIPHER% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% "
    "details=%RESPONSE_CODE_DETAILS%\n"
)
CLIENT_LOG = "flags=%RESPONSE_FLAGS% rx=%BYTES_RECEIVED% tx=%BYTES_SENT% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyServer:
    """The inbound end: mutual TLS and CONNECT in, plain TCP to the address in `:authority` out.

    `denied`, if any, is answered 403 by an RBAC rule. `trusted`: the clients' trust domain.
    """

    listen: SocketAddress
    admin: SocketAddress
    identity: Identity
    access_log: Path
    trusted: TrustDomain = TRUST_DOMAIN
    denied: SpiffeId | None = None
    max_streams: int = 10_000

    def config(self) -> Json:
        """The bootstrap document."""
        inbound: Json = {
            "name": "hbone",
            "address": _address(self.listen),
            "tcp_backlog_size": BACKLOG,
            "filter_chains": [{"transport_socket": self._tls(), "filters": [self._connection_manager()]}],
        }
        dial: Json = {
            "name": "authority",
            "type": "ORIGINAL_DST",
            "lb_policy": "CLUSTER_PROVIDED",
            "connect_timeout": "5s",
            "original_dst_lb_config": {"use_http_header": True, "http_header_name": ":authority"},
            "circuit_breakers": _NO_BREAKERS,
        }
        return _bootstrap(self.admin, [inbound], [dial])

    def _tls(self) -> Json:
        prefix: Json = {"prefix": f"spiffe://{self.trusted}/"}
        return _typed(
            "transport_sockets.tls",
            "transport_sockets.tls.v3.DownstreamTlsContext",
            require_client_certificate=True,
            disable_stateless_session_resumption=True,
            disable_stateful_session_resumption=True,
            common_tls_context=_common_tls(self.identity, prefix),
        )

    def _connection_manager(self) -> Json:
        upgrade: Json = {"upgrade_type": "CONNECT"}
        no_settings: Json = {}
        route: Json = {
            "match": {"connect_matcher": no_settings},
            "route": {
                "cluster": "authority",
                "timeout": "0s",
                "idle_timeout": "0s",
                "upgrade_configs": [{**upgrade, "connect_config": no_settings}],
            },
        }
        return _typed(
            "filters.network.http_connection_manager",
            "filters.network.http_connection_manager.v3.HttpConnectionManager",
            stat_prefix="hbone",
            codec_type="HTTP2",
            stream_idle_timeout="0s",
            http2_protocol_options=_http2(self.max_streams),
            upgrade_configs=[upgrade],
            access_log=[_access_log(self.access_log, SERVER_LOG)],
            route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            http_filters=[*self._rbac(), _typed("filters.http.router", "filters.http.router.v3.Router")],
        )

    def _rbac(self) -> list[Json]:
        if self.denied is None:
            return []
        principal = {"authenticated": {"principal_name": {"exact": str(self.denied)}}}
        rule = {"permissions": [{"any": True}], "principals": [principal]}
        rules = {"action": "DENY", "policies": {"denied": rule}}
        return [_typed("filters.http.rbac", "filters.http.rbac.v3.RBAC", rules=rules)]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvoyClient:
    """The outbound end: each listener's connections leave as CONNECTs to its target, over mutual TLS to `server`.

    `routes`: where to listen → `:authority` to ask for. `expected`: the one identity that the server may have.
    """

    routes: Mapping[SocketAddress, str]
    admin: SocketAddress
    identity: Identity
    server: SocketAddress
    expected: SpiffeId
    access_log: Path
    max_streams: int = 10_000

    def config(self) -> Json:
        """The bootstrap document."""
        listeners = [self._listener(*route) for route in self.routes.items()]
        return _bootstrap(self.admin, listeners, [self._cluster()])

    def _listener(self, listen: SocketAddress, authority: str) -> Json:
        proxy = _typed(
            "filters.network.tcp_proxy",
            "filters.network.tcp_proxy.v3.TcpProxy",
            stat_prefix="local",
            cluster="hbone",
            idle_timeout="0s",
            tunneling_config={"hostname": authority},
            access_log=[_access_log(self.access_log, CLIENT_LOG)],
        )
        return {
            "name": str(listen),
            "address": _address(listen),
            "tcp_backlog_size": BACKLOG,
            "filter_chains": [{"filters": [proxy]}],
        }

    def _cluster(self) -> Json:
        options = f"{API}.upstreams.http.v3.HttpProtocolOptions"
        http2 = {"explicit_http_config": {"http2_protocol_options": _http2(self.max_streams)}}
        endpoint = {"endpoint": {"address": _address(self.server)}}
        return {
            "name": "hbone",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "hbone", "endpoints": [{"lb_endpoints": [endpoint]}]},
            "circuit_breakers": _NO_BREAKERS,
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": options, **http2}
            },
            "transport_socket": _typed(
                "transport_sockets.tls",
                "transport_sockets.tls.v3.UpstreamTlsContext",
                max_session_keys=0,
                common_tls_context=_common_tls(self.identity, {"exact": str(self.expected)}),
            ),
        }


def envoy_command(config: Path, *, concurrency: int | None = None) -> list[str]:
    """The argument vector that runs `config` (JSON or YAML); None for as many workers as there are cores."""
    workers = () if concurrency is None else ("--concurrency", concurrency)
    return ENVOY.command("-c", config, "--disable-hot-restart", "-l", "warning", *workers)


def write_config(document: Json, path: Path) -> Path:
    """Write a bootstrap document where Envoy can read it, and give the path."""
    path.write_text(json.dumps(document, indent=1))
    return path


_NO_BREAKERS: Json = {"thresholds": [{"max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY}]}


def _bootstrap(admin: SocketAddress, listeners: list[Json], clusters: list[Json]) -> Json:
    return {
        "admin": {"address": _address(admin)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
    }


def _address(address: SocketAddress) -> Json:
    return {"socket_address": {"address": str(address.ip), "port_value": address.port}}


def _typed(name: str, kind: str, **fields: object) -> Json:
    return {"name": f"envoy.{name}", "typed_config": {"@type": f"{API}.{kind}", **fields}}


def _http2(max_streams: int) -> Json:
    return {
        "max_concurrent_streams": max_streams,
        "initial_stream_window_size": STREAM_WINDOW_BYTES,
        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
        "allow_connect": True,
    }


def _common_tls(identity: Identity, peer: Json) -> Json:
    only = "TLSv1_3"
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {"tls_minimum_protocol_version": only, "tls_maximum_protocol_version": only},
        "tls_certificates": [
            {"certificate_chain": {"filename": str(identity.chain)}, "private_key": {"filename": str(identity.key)}}
        ],
        "validation_context": {
            "trusted_ca": {"filename": str(identity.root)},
            "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": peer}],
        },
    }


def _access_log(path: Path, line: str) -> Json:
    text = {"text_format_source": {"inline_string": line}}
    return _typed("access_loggers.file", "access_loggers.file.v3.FileAccessLog", path=str(path), log_format=text)
