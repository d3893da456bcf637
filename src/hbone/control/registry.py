"""Leases: workloads that a program registers for as long as it is connected. Decides; the service holds the streams.

A registration is refused rather than bent: a name or address that somebody else has stays theirs. What was not asked
for is assigned so that the same program gets the same again: addresses follow from namespace and name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from hbone.addr import InvalidAddress, IpAddress, parse_host
from hbone.discovery.directory import Directory
from hbone.discovery.model import DEFAULT_CLUSTER, HBONE_PORT, PortMap, Protocol, Service, Workload
from hbone.discovery.store import Update
from hbone.errors import HboneError
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain

HOST_SUFFIX: Final = "mesh.internal"
"""Ends the host names of registered workloads that ask for none: NAME.NAMESPACE.mesh.internal (`.internal` is
reserved for private use)."""

LOOPBACK_POOL: Final = IPv4Network("127.64.0.0/10")
"""Assigned addresses. All of 127.0.0.0/8 can be bound without privilege on Linux; people write 127.0.x.y by hand."""

MAX_LEASES: Final = 10_000
MAX_LEASES_EACH: Final = 1_000  # of one user
MAX_SERVICES: Final = 64
MAX_PORTS: Final = 256
MAX_ADDRESSES: Final = 16

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1123 label: names become host names


class RegistrationRefused(HboneError):
    """A registration that cannot be had as asked."""


class Conflict(RegistrationRefused):
    """Somebody else has the name or address already."""


class OverLimit(RegistrationRefused):
    """Too many registrations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceWish:
    """A service to be an endpoint of; `hostname` empty: the workload's own."""

    hostname: str = ""
    ports: PortMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a program asks for. `name` empty: made from the service account; no `addresses`: one is assigned;
    `hbone_port` 0: nothing reaches this workload, it only calls others."""

    namespace: str
    service_account: str
    name: str = ""
    addresses: tuple[IpAddress, ...] = ()
    hbone_port: int = 0
    services: tuple[ServiceWish, ...] = ()
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a lease. One who is not `trusted` keeps to loopback addresses, to `addresses` of its own, and to host
    names of its namespace. `uid`: a user of this machine, or an identity as text."""

    uid: int | str
    label: str
    trusted: bool
    addresses: frozenset[IpAddress] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A registration in force, as it was asked for and as it was granted."""

    wish: Wish
    workload: Workload
    services: tuple[Service, ...]
    holder: Holder


class Registry:
    """All leases. What a call returns as an Update is to be applied to the store at once."""

    def __init__(
        self, directory: Directory, trust_domain: TrustDomain, *, network: str = "", cluster_id: str = DEFAULT_CLUSTER
    ) -> None:
        self._directory = directory
        self._trust_domain = trust_domain
        self._network = network
        self._cluster_id = cluster_id
        self._leases: dict[str, Lease] = {}  # by workload uid
        self._unclaimed: set[str] = set()
        self._served: dict[str, dict[str, Service]] = {}  # service key → workload uid → as that one registered it

    def leases(self) -> tuple[Lease, ...]:
        return tuple(self._leases.values())

    def identity(self, wish: Wish) -> SpiffeId:
        """The identity that a wish is about; raises RegistrationRefused."""
        try:
            return SpiffeId.for_workload(self._trust_domain, wish.namespace, wish.service_account)
        except InvalidSpiffeId as error:
            raise RegistrationRefused(error.what, fix=error.fix) from error

    def register(self, wish: Wish, holder: Holder, *, instead_of: Lease | None = None) -> tuple[Lease, Update]:
        """A new lease, or the successor of the same program's own. Raises RegistrationRefused, with nothing changed.

        A lease that was restored and has no program yet is its holder's to claim, by its name.
        """
        self.identity(wish)
        instead_of = instead_of or self._unclaimed_by(wish, holder)
        self._check_limits(wish, holder, instead_of)
        wish = replace(wish, name=self._name(wish, instead_of))
        uid = self._uid(wish.namespace, wish.name)
        addresses = self._addresses(wish, holder, uid) or self._assigned(uid, holder, instead_of)
        services = self._services(wish, holder)
        workload = Workload(
            uid=uid,
            name=wish.name,
            namespace=wish.namespace,
            addresses=addresses,
            network=self._network,
            protocol=Protocol.HBONE if wish.hbone_port else Protocol.TCP,
            trust_domain=self._trust_domain,
            service_account=wish.service_account,
            node=wish.node,
            canonical_name=wish.name,
            workload_name=wish.name,
            services={service.key: service.ports for service in services},
            cluster_id=self._cluster_id,
            hbone_port=wish.hbone_port or HBONE_PORT,
        )
        lease = Lease(wish=wish, workload=workload, services=services, holder=holder)
        gone = self._drop(instead_of) if instead_of is not None else ()
        self._leases[uid] = lease
        self._unclaimed.discard(uid)
        for service in services:
            self._served.setdefault(service.key, {})[uid] = service
        return lease, self._update((*gone, *(service.key for service in services)), (workload,))

    def restore(self, wish: Wish, holder: Holder) -> tuple[Lease, Update]:
        """A lease from before a restart, whose program has not come back yet. Raises RegistrationRefused."""
        lease, update = self.register(wish, holder)
        self._unclaimed.add(lease.workload.uid)
        return lease, update

    def unclaimed(self) -> tuple[Lease, ...]:
        """Restored leases without a program."""
        return tuple(self._leases[uid] for uid in sorted(self._unclaimed))

    def _unclaimed_by(self, wish: Wish, holder: Holder) -> Lease | None:
        uid = self._uid(wish.namespace, wish.name)
        lease = self._leases.get(uid) if wish.name and uid in self._unclaimed else None
        return lease if lease is not None and lease.holder.uid == holder.uid else None

    def release(self, lease: Lease) -> Update:
        """The lease ends; nothing if it has ended already."""
        if self._leases.get(lease.workload.uid) is not lease:
            return Update()
        return self._update(self._drop(lease), ())

    def _drop(self, lease: Lease) -> tuple[str, ...]:
        """Forget a lease: the names of all that it put into the store."""
        del self._leases[lease.workload.uid]
        self._unclaimed.discard(lease.workload.uid)
        for service in lease.services:
            holders = self._served[service.key]
            del holders[lease.workload.uid]
            if not holders:
                del self._served[service.key]
        return (lease.workload.uid, *(service.key for service in lease.services))

    def _update(self, touched: tuple[str, ...], workloads: tuple[Workload, ...]) -> Update:
        """`touched` names are withdrawn, but for services that some lease still lists: those have all their ports."""
        services: dict[str, Service] = {}
        for key in touched:
            holders = list(self._served.get(key, {}).values())
            if holders:
                ports = {service: target for one in holders for service, target in one.ports.items()}
                services[key] = replace(holders[0], ports=ports)
        put = {*services, *(workload.uid for workload in workloads)}
        return Update(
            workloads=workloads,
            services=tuple(services.values()),
            removed=tuple(key for key in touched if key not in put),
        )

    def _check_limits(self, wish: Wish, holder: Holder, instead_of: Lease | None) -> None:
        if len(wish.services) > MAX_SERVICES or len(wish.addresses) > MAX_ADDRESSES:
            raise OverLimit(
                "a registration of too many things", why=f"at most {MAX_SERVICES} services, {MAX_ADDRESSES} addresses"
            )
        if instead_of is not None:
            return
        own = sum(1 for lease in self._leases.values() if lease.holder.uid == holder.uid)
        if len(self._leases) >= MAX_LEASES or own >= MAX_LEASES_EACH:
            raise OverLimit(
                "too many registrations",
                why=f"at most {MAX_LEASES_EACH} of one user, {MAX_LEASES} in all",
                fix="end programs that hold some",
            )

    # names

    def _name(self, wish: Wish, instead_of: Lease | None) -> str:
        """The name asked for, or the first free one made from the service account."""
        own = instead_of.workload.uid if instead_of is not None else ""
        if wish.name:
            if not _NAME.fullmatch(wish.name):
                raise RegistrationRefused(
                    f"{wish.name[:80]!r} is no name for a workload", fix="use a-z, 0-9 and '-', at most 63 characters"
                )
            taken = self._taken_by(wish.namespace, wish.name, own)
            if taken:
                raise Conflict(f"the name {wish.namespace}/{wish.name} is taken", why=taken, fix="choose another name")
            return wish.name
        for name in _variants(wish.service_account):
            if not self._taken_by(wish.namespace, name, own):
                return name
        raise RegistrationRefused(
            f"no name can be made from the service account {wish.service_account!r}", fix="give a name"
        )

    def _taken_by(self, namespace: str, name: str, own_uid: str) -> str:
        uid = self._uid(namespace, name)
        lease = self._leases.get(uid)
        if lease is not None and uid != own_uid:
            return f"{lease.holder.label} registered it"
        for workload in self._directory.workloads_called(namespace, name):
            if workload.uid not in {uid, own_uid}:
                return f"it is the workload {workload.uid}"
        return ""

    def _uid(self, namespace: str, name: str) -> str:
        return f"{self._cluster_id}/hbone/Registration/{namespace}/{name}"

    # addresses

    def _addresses(self, wish: Wish, holder: Holder, uid: str) -> tuple[IpAddress, ...]:
        for ip in wish.addresses:
            if not holder.trusted and not ip.is_loopback and ip not in holder.addresses:
                raise RegistrationRefused(
                    f"{holder.label} may not register the address {ip}", fix="take one of 127.0.0.0/8, or leave it out"
                )
            if ip.is_unspecified or ip.is_multicast:
                raise RegistrationRefused(
                    f"{ip} is not the address of a workload", fix="give the address it is reached at"
                )
            self._check_free(ip, uid)
        return tuple(dict.fromkeys(wish.addresses))

    def _check_free(self, ip: IpAddress, uid: str) -> None:
        owner = self._directory.workload_at(self._network, ip)
        if owner is not None and owner.uid != uid:
            raise Conflict(f"the address {ip} is taken", why=f"it is {owner.uid}'s", fix="choose another address")

    def _assigned(self, uid: str, holder: Holder, instead_of: Lease | None) -> tuple[IpAddress, ...]:
        """A machine's own address, if it comes from another one than this; else a loopback address."""
        if instead_of is not None and instead_of.workload.uid == uid:
            return instead_of.workload.addresses
        own = tuple(ip for ip in holder.addresses if not ip.is_loopback)
        for ip in own:
            self._check_free(ip, uid)
        if own:
            return own
        for ip in _candidates(uid):
            if self._directory.workload_at(self._network, ip) is None:
                return (ip,)
        raise OverLimit("no loopback address is free", why=f"all tried of {LOOPBACK_POOL} are taken")

    # services

    def _services(self, wish: Wish, holder: Holder) -> tuple[Service, ...]:
        own = f"{wish.name}.{wish.namespace}.{HOST_SUFFIX}"
        services: dict[str, Service] = {}
        for asked in wish.services:
            hostname = self._hostname(asked, own)
            _check_ports(asked.ports)
            if not holder.trusted and not hostname.endswith(f".{wish.namespace}.{HOST_SUFFIX}"):
                raise RegistrationRefused(
                    f"{holder.label} may not register the host name {hostname}",
                    fix=f"take a name that ends in .{wish.namespace}.{HOST_SUFFIX}, or leave it out",
                )
            known = services.get(hostname)
            ports: PortMap = {**known.ports, **asked.ports} if known else asked.ports
            services[hostname] = Service(
                name=hostname.partition(".")[0], namespace=wish.namespace, hostname=hostname, ports=ports
            )
        return tuple(services.values())

    @staticmethod
    def _hostname(asked: ServiceWish, own: str) -> str:
        try:
            return parse_host(asked.hostname) if asked.hostname else own
        except InvalidAddress as error:
            raise RegistrationRefused(error.what, fix=error.fix) from error


def _check_ports(ports: Mapping[int, int]) -> None:
    if not ports or len(ports) > MAX_PORTS:
        raise RegistrationRefused(f"a service with {len(ports)} ports", fix=f"give 1 to {MAX_PORTS}")
    for number in (*ports, *ports.values()):
        if not 0 < number < 65536:
            raise RegistrationRefused(f"{number} is not a port", fix="write a number from 1 to 65535")


def _variants(service_account: str) -> Iterator[str]:
    """web, web-2, web-3 …"""
    stem = re.sub(r"[^a-z0-9-]+", "-", service_account.lower()).strip("-")[:58].rstrip("-")
    if not stem:
        return
    yield stem
    for number in range(2, MAX_LEASES + 2):
        yield f"{stem}-{number}"


def _candidates(uid: str) -> Iterator[IPv4Address]:
    """Addresses of the pool to try for a workload, the same each time; never one that ends in .0 or .255."""
    start = int.from_bytes(blake2b(uid.encode(), digest_size=8).digest(), "big")
    size = LOOPBACK_POOL.num_addresses
    first = int(LOOPBACK_POOL.network_address)
    for step in range(4096):
        ip = IPv4Address(first + (start + step) % size)
        if ip.packed[3] not in {0, 255}:
            yield ip
