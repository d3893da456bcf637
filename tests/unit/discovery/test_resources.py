"""Workloads and services ↔ the control plane's messages, with upstream's defaults and reasons."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from hbone.addr import Prefix
from hbone.discovery import model
from hbone.discovery.resources import (
    HBONE_PORT_EXTENSION,
    AddressDecoder,
    InvalidResource,
    service_resource,
    workload_resource,
)
from hbone.proto import workload_pb2 as pb

UID = "c1//Pod/shop/cart-0"
KEY = "shop/cart.shop.svc.cluster.local"
GATEWAY = model.GatewayAddress(destination=model.NetworkAddress("n2", ip_address("10.9.0.5")), port=15443)
WAYPOINT = model.GatewayAddress(destination=model.NamespacedHostname("infra", "waypoint.infra"))

WORKLOAD = model.Workload(
    uid=UID,
    name="cart-0",
    namespace="shop",
    addresses=(ip_address("10.1.0.7"), ip_address("fd00::7")),
    hostname="cart-0.example",
    network="n1",
    protocol=model.Protocol.HBONE,
    trust_domain="td.example",
    service_account="cart",
    waypoint=WAYPOINT,
    network_gateway=GATEWAY,
    node="node-a",
    canonical_name="cart",
    canonical_revision="v3",
    workload_type=model.WorkloadType.POD,
    workload_name="cart",
    native_tunnel=True,
    application_tunnel=model.ApplicationTunnel(protocol=model.TunnelProtocol.PROXY, port=15088),
    services={KEY: {80: 8080, 443: 0}},
    authorization_policies=("shop/only-web",),
    health=model.Health.UNHEALTHY,
    cluster_id="c1",
    locality=model.Locality(region="eu-1", zone="eu-1b", subzone="s"),
    network_mode=model.NetworkMode.HOST_NETWORK,
    capacity=3,
    hbone_port=25008,
)
SERVICE = model.Service(
    name="cart",
    namespace="shop",
    hostname="cart.shop.svc.cluster.local",
    vips=(model.NetworkAddress("n1", ip_address("10.2.0.9")), model.NetworkAddress("", ip_address("fd00::9"))),
    cidr_vips=(model.NetworkPrefix("n1", Prefix.parse("10.3.0.0/24")),),
    ports={80: 8080, 443: 0},
    subject_alt_names=("spiffe://td/ns/a/sa/b",),
    waypoint=WAYPOINT,
    weighted_waypoints=(model.WeightedWaypoint(destination=GATEWAY, weight=10),),
    load_balancing=model.LoadBalancing(
        mode=model.LoadBalancerMode.FAILOVER,
        routing_preferences=(model.Scope.NETWORK, model.Scope.REGION, model.Scope.ZONE),
        health_policy=model.HealthPolicy.ALLOW_ALL,
    ),
    ip_families=model.IpFamilies.DUAL,
    canonical=True,
    visibility=model.Visibility.NAMESPACE,
)


def decoded_workload(message: pb.Workload, name: str = UID) -> model.Workload:
    value = AddressDecoder().decode(name, pb.Address(workload=message).SerializeToString())
    assert isinstance(value, model.Workload)
    return value


def decoded_service(message: pb.Service, name: str = "shop/h") -> model.Service:
    value = AddressDecoder().decode(name, pb.Address(service=message).SerializeToString())
    assert isinstance(value, model.Service)
    return value


def test_a_workload_with_every_field_comes_back_as_it_was() -> None:
    sent = workload_resource(WORKLOAD)
    assert AddressDecoder().decode(sent.name, sent.body) == WORKLOAD


def test_a_service_with_every_field_comes_back_as_it_was() -> None:
    sent = service_resource(SERVICE)
    assert sent.name == KEY
    assert AddressDecoder().decode(sent.name, sent.body) == SERVICE


@pytest.mark.parametrize("kind", [*model.WorkloadType, *model.IpFamilies, *model.LoadBalancerMode, *model.Scope])
def test_every_kind_goes_there_and_back(kind: object) -> None:
    decoder = AddressDecoder()
    if isinstance(kind, model.WorkloadType):
        workload = replace(WORKLOAD, workload_type=kind)
        assert decoder.decode(UID, workload_resource(workload).body) == workload
        return
    balancing = SERVICE.load_balancing
    service = SERVICE
    if isinstance(kind, model.IpFamilies):
        service = replace(SERVICE, ip_families=kind)
    if isinstance(kind, model.LoadBalancerMode):
        service = replace(SERVICE, load_balancing=replace(balancing, mode=kind))
    if isinstance(kind, model.Scope):
        service = replace(SERVICE, load_balancing=replace(balancing, routing_preferences=(kind,)))
    assert decoder.decode(KEY, service_resource(service).body) == service


def test_upstreams_defaults_are_applied_on_the_way_in() -> None:
    workload = decoded_workload(pb.Workload(uid=UID, name="cart-0", namespace="shop"))
    assert workload == model.Workload(uid=UID, name="cart-0", namespace="shop")
    assert (workload.trust_domain, workload.service_account) == ("cluster.local", "default")
    assert (workload.cluster_id, workload.capacity, workload.hbone_port) == ("Kubernetes", 1, 15008)
    assert workload.protocol is model.Protocol.TCP


def test_a_capacity_of_zero_is_not_an_absent_one() -> None:
    message = pb.Workload(uid=UID, namespace="shop")
    message.capacity.value = 0
    assert decoded_workload(message).capacity == 0


def test_v4_mapped_addresses_are_made_plain() -> None:
    raw = ip_address("::ffff:10.0.0.1").packed
    assert decoded_workload(pb.Workload(uid=UID, namespace="s", addresses=[raw])).addresses == (ip_address("10.0.0.1"),)


def test_an_unknown_visibility_is_public_as_upstream_has_it() -> None:
    raw = pb.Address(service=pb.Service(namespace="shop", hostname="h")).SerializeToString()
    raw = raw[:1] + bytes([raw[1] + 2]) + raw[2:] + b"\x70\x09"  # field 14: 9
    value = AddressDecoder().decode("shop/h", raw)
    assert isinstance(value, model.Service)
    assert value.visibility is model.Visibility.PUBLIC


def test_a_range_is_a_range_and_a_full_length_an_address() -> None:
    ip = ip_address("10.3.0.7").packed
    service = decoded_service(
        pb.Service(
            namespace="shop",
            hostname="h",
            addresses=[
                pb.NetworkAddress(network="n", address=ip, length=32),
                pb.NetworkAddress(network="n", address=ip, length=24),
                pb.NetworkAddress(network="n", address=ip, length=0),
            ],
        )
    )
    assert [str(vip) for vip in service.vips] == ["n/10.3.0.7"]
    assert [str(one) for one in service.cidr_vips] == ["n/10.3.0.0/24", "n/0.0.0.0/0"]


def test_a_gateway_without_port_is_on_15008() -> None:
    name = pb.NamespacedHostname(namespace="infra", hostname="w")
    workload = decoded_workload(pb.Workload(uid=UID, namespace="s", waypoint=pb.GatewayAddress(hostname=name)))
    assert workload.waypoint is not None
    assert workload.waypoint.port == 15008


def workload_with(change: Callable[[pb.Workload], object]) -> pb.Workload:
    message = pb.Workload(uid=UID, namespace="shop")
    change(message)
    return message


def _bad_extension(message: pb.Workload) -> None:
    message.extensions.add(name=HBONE_PORT_EXTENSION).config.type_url = "type.googleapis.com/google.protobuf.Empty"


BAD_WORKLOADS: dict[str, tuple[Callable[[pb.Workload], object], str]] = {
    "no uid": (lambda m: m.ClearField("uid"), "has no uid"),
    "another uid": (lambda m: setattr(m, "uid", "other"), "is named .* but is 'other'"),
    "3 address bytes": (lambda m: m.addresses.append(b"abc"), "failed to parse address, had 3 bytes"),
    "legacy mTLS": (lambda m: setattr(m, "tunnel_protocol", 2), "unknown enum: invalid tunnel protocol 2"),
    "unknown status": (lambda m: setattr(m, "status", 7), "invalid status 7"),
    "unknown mode": (lambda m: setattr(m, "network_mode", 7), "invalid network mode 7"),
    "unknown type": (lambda m: setattr(m, "workload_type", 7), "invalid workload type 7"),
    "service without namespace": (lambda m: m.services["h"].ports.add(), "without namespace"),
    "port 70000": (lambda m: m.services["a/h"].ports.add(service_port=70000), "has port 70000"),
    "empty gateway": (lambda m: m.waypoint.SetInParent(), "nonempty gateway address is missing address"),
    "gateway with 5 bytes": (lambda m: setattr(m.waypoint.address, "address", b"12345"), "had 5 bytes"),
    "unknown tunnel": (lambda m: setattr(m.application_tunnel, "protocol", 9), "invalid application tunnel 9"),
    "bad trust domain": (lambda m: setattr(m, "trust_domain", "UPPER"), "is not a trust domain"),
    "bad service account": (lambda m: setattr(m, "service_account", "a b"), "SPIFFE ID"),
    "no namespace": (lambda m: m.ClearField("namespace"), "empty"),
    "bad port extension": (_bad_extension, "holds no port"),
}


@pytest.mark.parametrize("name", BAD_WORKLOADS)
def test_a_workload_that_is_not_understood_is_rejected_with_the_reason(name: str) -> None:
    change, expected = BAD_WORKLOADS[name]
    with pytest.raises(InvalidResource, match=expected):
        decoded_workload(workload_with(change))


BAD_SERVICES: dict[str, tuple[Callable[[pb.Service], object], str]] = {
    "no hostname": (lambda m: m.ClearField("hostname"), "has no hostname"),
    "unspecified scope": (
        lambda m: m.load_balancing.routing_preference.append(pb.LoadBalancing.UNSPECIFIED_SCOPE),
        "unknown enum: invalid target",
    ),
    "unknown mode": (lambda m: setattr(m.load_balancing, "mode", 9), "invalid mode 9"),
    "unknown health policy": (lambda m: setattr(m.load_balancing, "health_policy", 9), "invalid health policy 9"),
    "unknown families": (lambda m: setattr(m, "ip_families", 9), "invalid IP families 9"),
    "range of 33 bits": (lambda m: m.addresses.add(address=b"\1\2\3\4", length=33), "range of 33 bits"),
}


@pytest.mark.parametrize("name", BAD_SERVICES)
def test_a_service_that_is_not_understood_is_rejected_with_the_reason(name: str) -> None:
    change, expected = BAD_SERVICES[name]
    message = pb.Service(namespace="shop", hostname="h")
    change(message)
    with pytest.raises(InvalidResource, match=expected):
        decoded_service(message)


@pytest.mark.parametrize(("body", "expected"), [(b"\xff", "is not protobuf"), (b"", "is neither workload nor service")])
def test_what_is_no_address_at_all_is_rejected(body: bytes, expected: str) -> None:
    with pytest.raises(InvalidResource, match=expected):
        AddressDecoder().decode("x", body)


def test_a_workload_is_found_by_its_addresses_unless_they_are_the_machines() -> None:
    assert workload_resource(WORKLOAD).aliases == ()
    own = replace(WORKLOAD, network_mode=model.NetworkMode.STANDARD)
    assert workload_resource(own).aliases == ("n1/10.1.0.7", "n1/fd00::7")
    assert service_resource(SERVICE).aliases == ("n1/10.2.0.9", "/fd00::9")


def test_equal_contents_are_equal_bytes_whatever_the_order_of_maps() -> None:
    services = {f"shop/{n}": {80: n} for n in range(1, 20)}
    turned = dict(reversed(services.items()))
    one, other = replace(WORKLOAD, services=services), replace(WORKLOAD, services=turned)
    assert workload_resource(one).body == workload_resource(other).body


def test_many_workloads_share_what_they_have_in_common() -> None:
    decoder = AddressDecoder()
    one = decoder.decode(UID, workload_resource(WORKLOAD).body)
    two = decoder.decode(UID, workload_resource(WORKLOAD).body)
    assert isinstance(one, model.Workload)
    assert isinstance(two, model.Workload)
    assert one.services is two.services
    assert one.locality is two.locality
