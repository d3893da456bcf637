"""The mesh's state in the shape of ztunnel's local XDS file: what `hbone get config` shows can be loaded again.

Plain dicts, lists, texts and numbers. What has its default value is left out, except what the format requires.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from hbone.discovery.model import (
    DEFAULT_CLUSTER,
    DEFAULT_SERVICE_ACCOUNT,
    DEFAULT_TRUST_DOMAIN,
    HBONE_PORT,
    STANDARD_LOAD_BALANCING,
    GatewayAddress,
    Health,
    HealthPolicy,
    IpFamilies,
    LoadBalancing,
    MeshState,
    NetworkMode,
    Protocol,
    Service,
    Visibility,
    Workload,
    WorkloadType,
)

Plain: TypeAlias = object  # text, number, bool, None, or a list or dict of them


def dump(state: MeshState) -> dict[str, Plain]:
    """The whole state; without `policies`, which are not part of it."""
    return {
        "workloads": [workload_fields(workload) for workload in state.workloads],
        "services": [service_fields(service) for service in state.services],
    }


def workload_fields(workload: Workload) -> dict[str, Plain]:
    tunnel = workload.application_tunnel
    optional: dict[str, tuple[Plain, Plain]] = {
        "trustDomain": (workload.trust_domain, DEFAULT_TRUST_DOMAIN),
        "serviceAccount": (workload.service_account, DEFAULT_SERVICE_ACCOUNT),
        "network": (workload.network, ""),
        "hostname": (workload.hostname, ""),
        "protocol": (workload.protocol.value, Protocol.TCP.value),
        "hbonePort": (workload.hbone_port, HBONE_PORT),
        "networkMode": (workload.network_mode.value, NetworkMode.STANDARD.value),
        "node": (workload.node, ""),
        "workloadName": (workload.workload_name, ""),
        "workloadType": (workload.workload_type.value, WorkloadType.DEPLOYMENT.value),
        "canonicalName": (workload.canonical_name, ""),
        "canonicalRevision": (workload.canonical_revision, ""),
        "clusterId": (workload.cluster_id, DEFAULT_CLUSTER),
        "locality": (_present(_locality(workload)), {}),
        "status": (workload.health.value, Health.HEALTHY.value),
        "nativeTunnel": (workload.native_tunnel, False),
        "capacity": (workload.capacity, 1),
        "authorizationPolicies": (list[Plain](workload.authorization_policies), []),
        "waypoint": (_gateway(workload.waypoint), None),
        "networkGateway": (_gateway(workload.network_gateway), None),
        "applicationTunnel": (
            None if tunnel is None else {"protocol": tunnel.protocol.value, "port": tunnel.port or 0},
            None,
        ),
        "labels": (dict[str, Plain](workload.labels), {}),
    }
    return {
        "uid": workload.uid,
        "name": workload.name,
        "namespace": workload.namespace,
        "workloadIps": _texts(workload.addresses),
        **_changed(optional),
        "services": {key: dict[int, Plain](ports) for key, ports in workload.services.items()},
    }


def service_fields(service: Service) -> dict[str, Plain]:
    optional: dict[str, tuple[Plain, Plain]] = {
        "cidrVips": ([{"network": vip.network, "cidr": str(vip.prefix)} for vip in service.cidr_vips], []),
        "subjectAltNames": (list[Plain](service.subject_alt_names), []),
        "waypoint": (_gateway(service.waypoint), None),
        "weightedWaypoints": (
            [{"destination": _gateway(w.destination), "weight": w.weight} for w in service.weighted_waypoints],
            [],
        ),
        "loadBalancer": (_balancing(service.load_balancing), None),
        "ipFamilies": (service.ip_families.value, IpFamilies.AUTOMATIC.value),
        "canonical": (service.canonical, False),
        "visibility": (service.visibility.value, Visibility.PUBLIC.value),
    }
    return {
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname,
        "vips": _texts(service.vips),
        "ports": dict[int, Plain](service.ports),
        **_changed(optional),
    }


def _changed(fields: Mapping[str, tuple[Plain, Plain]]) -> dict[str, Plain]:
    return {key: value for key, (value, default) in fields.items() if value != default}


def _present(fields: Mapping[str, str]) -> dict[str, Plain]:
    return {key: value for key, value in fields.items() if value}


def _texts(values: Iterable[object]) -> list[Plain]:
    return [str(value) for value in values]


def _locality(workload: Workload) -> dict[str, str]:
    place = workload.locality
    return {"region": place.region, "zone": place.zone, "subzone": place.subzone}


def _gateway(gateway: GatewayAddress | None) -> Plain:
    if gateway is None:
        return None
    return {"destination": str(gateway.destination), "hboneMtlsPort": gateway.port}


def _balancing(balancing: LoadBalancing) -> Plain:
    if balancing == STANDARD_LOAD_BALANCING:
        return None
    fields: dict[str, Plain] = {"mode": balancing.mode.value}
    if balancing.routing_preferences:
        fields["routingPreferences"] = [scope.value for scope in balancing.routing_preferences]
    if balancing.health_policy is not HealthPolicy.ONLY_HEALTHY:
        fields["healthPolicy"] = balancing.health_policy.value
    return fields
