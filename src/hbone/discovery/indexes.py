"""The indexes of the store, each with one key and one question.

Where several values share a key they are kept in the order in which they took it; a changed value keeps its
place. Addresses are indexed by their integer: hashing `ipaddress` objects costs more than the rest of a lookup.
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from hbone.addr import IpAddress
from hbone.discovery.model import Endpoint, NetworkPrefix, Service, Workload

_N = TypeVar("_N", bound=Workload | Service)
_K = TypeVar("_K", bound=Hashable)


def _name(value: Workload | Service) -> str:
    """What outlives the changes of a value."""
    return value.uid if isinstance(value, Workload) else value.key


def group_add(groups: dict[_K, tuple[_N, ...]], key: _K, value: _N) -> None:
    """Puts `value` into the group at `key`, in place of an older version of itself."""
    group = groups.get(key)
    if group is None:
        groups[key] = (value,)
        return
    name = _name(value)
    for place, member in enumerate(group):
        if _name(member) == name:
            groups[key] = (*group[:place], value, *group[place + 1 :])
            return
    groups[key] = (*group, value)


def group_remove(groups: dict[_K, tuple[_N, ...]], key: _K, value: _N) -> None:
    """Takes `value`, or another version of it, out of the group at `key`; no empty group is left."""
    name = _name(value)
    rest = tuple(member for member in groups.get(key, ()) if _name(member) != name)
    if rest:
        groups[key] = rest
    else:
        groups.pop(key, None)


def address_number(ip: IpAddress) -> int:
    """The address as a key: IPv4 from 0 up, IPv6 from -1 down."""
    number = int(ip)
    return number if ip.version == 4 else ~number


class AddressIndex(Generic[_N]):
    """(network, address) → values."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[int, tuple[_N, ...]]] = {}

    def get(self, network: str, ip: IpAddress) -> tuple[_N, ...]:
        here = self._networks.get(network)
        return here.get(address_number(ip), ()) if here is not None else ()

    def change(
        self, before: _N | None, after: _N | None, addresses: Callable[[_N], Iterable[tuple[str, IpAddress]]]
    ) -> None:
        kept: set[tuple[str, int]] = set()
        if after is not None:
            kept = {(network, address_number(ip)) for network, ip in addresses(after)}
            for network, number in kept:
                group_add(self._networks.setdefault(network, {}), number, after)
        if before is not None:
            for network, number in {(network, address_number(ip)) for network, ip in addresses(before)} - kept:
                group_remove(self._networks[network], number, before)
                if not self._networks[network]:
                    del self._networks[network]


class PrefixIndex:
    """(network, address range) → services; few ranges, so a lookup tries each prefix length that occurs."""

    def __init__(self) -> None:
        self._networks: dict[str, dict[tuple[int, int], dict[int, tuple[Service, ...]]]] = {}

    def best(self, network: str, ip: IpAddress, namespace: str | None) -> Service | None:
        """The visible service in the client's namespace, with the longest prefix, the canonical one; then the
        oldest."""
        lengths = self._networks.get(network)
        if not lengths:
            return None
        best: Service | None = None
        best_rank = (False, -1, False)
        number = int(ip)
        for (version, length), ranges in lengths.items():
            if version != ip.version:
                continue
            shift = ip.max_prefixlen - length
            for service in ranges.get(number >> shift << shift, ()):
                rank = (service.namespace == namespace, length, service.canonical)
                if rank > best_rank and service.visible_from(namespace):
                    best, best_rank = service, rank
        return best

    def change(self, before: Service | None, after: Service | None) -> None:
        kept: set[NetworkPrefix] = set()
        if after is not None:
            kept = set(after.cidr_vips)
            for vip in after.cidr_vips:
                net = vip.prefix.network
                ranges = self._networks.setdefault(vip.network, {}).setdefault((net.version, net.prefixlen), {})
                group_add(ranges, int(net.network_address), after)
        if before is not None:
            for vip in set(before.cidr_vips) - kept:
                self._remove(vip, before)

    def _remove(self, vip: NetworkPrefix, service: Service) -> None:
        lengths = self._networks[vip.network]
        key = (vip.prefix.network.version, vip.prefix.network.prefixlen)
        group_remove(lengths[key], int(vip.prefix.network.network_address), service)
        if not lengths[key]:
            del lengths[key]
        if not lengths:
            del self._networks[vip.network]


class HostIndex:
    """Host name → services, in any mixture of cases."""

    def __init__(self) -> None:
        self._hosts: dict[str, tuple[Service, ...]] = {}

    def all(self, hostname: str) -> tuple[Service, ...]:
        return self._hosts.get(hostname.lower(), ())

    def get(self, namespace: str, hostname: str) -> Service | None:
        return next((service for service in self.all(hostname) if service.namespace == namespace), None)

    def change(self, before: Service | None, after: Service | None) -> None:
        if after is not None:
            group_add(self._hosts, after.hostname.lower(), after)
        elif before is not None:
            group_remove(self._hosts, before.hostname.lower(), before)


class EndpointIndex:
    """Service key → the workloads that list it, whether or not the service is known."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, Workload]] = {}
        self._ready: dict[str, tuple[Endpoint, ...]] = {}

    def of(self, key: str) -> tuple[Endpoint, ...]:
        ready = self._ready.get(key)
        if ready is None:
            members = self._members.get(key)
            if members is None:
                return ()
            ready = tuple(Endpoint(members[uid], members[uid].services[key]) for uid in sorted(members))
            self._ready[key] = ready
        return ready

    def change(self, before: Workload | None, after: Workload | None) -> None:
        if before is not None:
            for key in before.services:
                self._ready.pop(key, None)
                if after is None or key not in after.services:
                    members = self._members[key]
                    del members[before.uid]
                    if not members:
                        del self._members[key]
        if after is not None:
            for key in after.services:
                self._ready.pop(key, None)
                self._members.setdefault(key, {})[after.uid] = after
