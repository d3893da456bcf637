"""A node's way to a control plane on another machine, as Istio sets a ztunnel up: addresses, root file, token file, and
who the node says it is."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from hbone.config.model import NodeSettings
from hbone.control.channel import Endpoint
from hbone.control.tls_endpoint import BearerToken, Roots, TlsEndpoint, parse_control_address
from hbone.values import dataclass

IN_CLUSTER: Final = "istiod.istio-system.svc:15012"

_META: Final = "ISTIO_META_"
_CA_HEADER, _XDS_HEADER = "CA_HEADER_", "XDS_HEADER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bootstrap:
    """Where certificates and the mesh come from."""

    ca: TlsEndpoint
    xds: TlsEndpoint


def bootstrap(settings: NodeSettings, environment: Mapping[str, str]) -> Bootstrap | None:
    """None when no control plane on another machine is meant. Raises InvalidEndpoint.

    Inside Kubernetes that is istiod by its usual name, unless the settings name another source of certificates.
    """
    ca, xds = settings.ca_address or settings.xds_address, settings.xds_address or settings.ca_address
    if ca is None and environment.get("KUBERNETES_SERVICE_HOST") and settings.control_socket is None:
        ca = xds = IN_CLUSTER
    if ca is None or xds is None:
        return None
    authorization = _authorization(settings.auth_token)
    return Bootstrap(
        ca=_endpoint(
            ca, settings.ca_root, settings.ca_alt_name, authorization, _headers(_CA_HEADER, settings, environment)
        ),
        xds=_endpoint(
            xds,
            settings.xds_root or settings.ca_root,
            settings.xds_alt_name,
            authorization,
            _headers(_XDS_HEADER, settings, environment),
        ),
    )


def is_foreign(endpoint: Endpoint) -> bool:
    """Whether it may be somebody else's control plane: one that is not known by an identity of ours."""
    return isinstance(endpoint, TlsEndpoint) and endpoint.identity is None


def node_id(settings: NodeSettings, environment: Mapping[str, str]) -> str:
    """As a ztunnel calls itself."""
    name, namespace = environment.get("POD_NAME", "hbone"), environment.get("POD_NAMESPACE", "node")
    ip = environment.get("INSTANCE_IP") or settings.node_name or "1.1.1.1"
    return f"ztunnel~{ip}~{name}.{namespace}~{namespace}.svc.{settings.cluster_domain}"


def node_metadata(settings: NodeSettings, environment: Mapping[str, str]) -> dict[str, str | float | bool]:
    """What a control plane is told of this node."""
    pod: dict[str, str | float | bool] = {
        key: environment[name]
        for key, name in (("NAME", "POD_NAME"), ("NAMESPACE", "POD_NAMESPACE"), ("INSTANCE_IPS", "INSTANCE_IP"))
        if environment.get(name)
    }
    meta = {name.removeprefix(_META): value for name, value in environment.items() if name.startswith(_META)}
    own = {"NODE_NAME": settings.node_name, "NETWORK": settings.network, "CLUSTER_ID": settings.cluster_id}
    return {**pod, **meta, **own}


def _endpoint(
    address: str,
    roots: str,
    other_name: str | None,
    authorization: Callable[[], str] | None,
    headers: Mapping[str, str],
) -> TlsEndpoint:
    host, port = parse_control_address(address)
    return TlsEndpoint(
        host=host,
        port=port,
        roots=Roots(roots),
        names=(other_name,) if other_name else (),
        authorization=authorization,
        headers=headers,
    )


def _authorization(source: str) -> Callable[[], str] | None:
    """None for the default place when nothing is there: a control plane may know us otherwise."""
    default: Any = NodeSettings.model_fields["auth_token"].default
    if source == default and not Path(source).exists():
        return None
    token = BearerToken(source)
    return lambda: f"Bearer {token.value()}"


def _headers(prefix: str, settings: NodeSettings, environment: Mapping[str, str]) -> dict[str, str]:
    more = {name.removeprefix(prefix): value for name, value in environment.items() if name.startswith(prefix)}
    return {"clusterid": settings.cluster_id, **{name.lower(): value for name, value in more.items() if name}}
