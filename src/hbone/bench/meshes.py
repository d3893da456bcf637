"""Meshes to measure with, in the form of ztunnel's local file: the pair's own, large ones, and policies."""

from collections.abc import Mapping
from ipaddress import IPv4Address

from hbone.addr import SocketAddress
from hbone.bench.pki import TRUST_DOMAIN

NAMESPACE, CLIENT, SERVER = "bench", "client", "server"
FIRST_IP = IPv4Address("10.0.0.0")
NAMESPACES, SERVICES, ACCOUNTS, NODES = 200, 5_000, 500, 1_000

Json = dict[str, object]


def mesh_document(server: SocketAddress) -> Json:
    """The server, whose node is there, and the client, whom nobody calls."""
    ip = IPv4Address(str(server.ip))
    reached = _workload(NAMESPACE, SERVER, ip, protocol="HBONE") | {"hbonePort": server.port}
    return {"workloads": [reached, _workload(NAMESPACE, CLIENT, ip - 1, protocol="TCP")]}


def large_mesh(count: int) -> Json:
    """`count` workloads, each behind a service, with what real ones have in common in common."""
    return {"workloads": [numbered_workload(number) for number in range(count)]}


def numbered_workload(number: int) -> Json:
    """One of a large mesh; its address is the `number`th from 10.0.0.0."""
    namespace = f"ns{number % NAMESPACES}"
    plain = _workload(namespace, f"w{number}", FIRST_IP + number, protocol="HBONE")
    return plain | {
        "serviceAccount": f"sa{number % ACCOUNTS}",
        "node": f"node{number % NODES}",
        "services": {f"{namespace}/svc{number % SERVICES}.{namespace}.example": {"80": 8080}},
    }


def policy_list(count: int) -> list[Json]:
    """`count` policies that let CLIENT through to NAMESPACE, and of which few have to do with it.

    Two thirds are for the same destination and other callers, the rest for other namespaces; the three DENY policies
    that no caller is named in must be tried for every connection.
    """
    return [_policy(number) for number in range(count)]


def _policy(number: int) -> Json:
    name, deny = f"p{number}", number in {1, 2, 3}
    here = number % 3 != 2 or deny
    return {
        "name": name,
        "namespace": NAMESPACE if here else f"ns{number % NAMESPACES}",
        "scope": "Namespace",
        "action": "Deny" if deny else "Allow",
        "rules": [[[match] for match in _clauses(number)]],
    }


def _clauses(number: int) -> list[Mapping[str, object]]:
    """The clauses of a policy's one rule, one match in each."""
    if number == 0:
        return [{"principals": [{"Exact": f"{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{CLIENT}"}]}]
    if number in {1, 2, 3}:
        return [{"notNamespaces": [{"Exact": NAMESPACE}]}, {"destinationPorts": [number]}]
    caller = f"{TRUST_DOMAIN}/ns/ns{number % NAMESPACES}/sa/sa{number}"
    kinds: list[list[Mapping[str, object]]] = [
        [{"destinationPorts": [80, 8080]}, {"principals": [{"Exact": caller}]}],
        [{"principals": [{"Prefix": f"{TRUST_DOMAIN}/ns/ns{number}/"}]}],
        [{"namespaces": [{"Exact": f"ns{number}"}, {"Exact": f"other{number}"}]}],
        [{"sourceIps": [f"10.{number >> 8 & 255}.{number & 255}.0/24"]}],
    ]
    return kinds[number % len(kinds)]


def _workload(namespace: str, name: str, ip: IPv4Address, *, protocol: str) -> Json:
    return {
        "uid": f"bench//Pod/{namespace}/{name}",
        "name": name,
        "namespace": namespace,
        "serviceAccount": name,
        "trustDomain": str(TRUST_DOMAIN),
        "workloadIps": [str(ip)],
        "protocol": protocol,
        "services": {},
    }
