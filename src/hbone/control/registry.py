"""Leases: workloads that a program registers for as long as it is connected. Decides; the service holds the streams.

A registration is refused rather than bent: a name or address that somebody else has stays theirs. What was not asked
for is assigned so that the same program gets the same again: addresses follow from namespace and name.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from hbone.addr import InvalidAddress, IpAddress, parse_host
from hbone.control.lease import Conflict, Holder, Lease, OverLimit, RegistrationRefused, ServiceWish, Wish
from hbone.discovery.directory import Directory
from hbone.discovery.groups import group_key
from hbone.discovery.model import DEFAULT_CLUSTER, HBONE_PORT, Health, PortMap, Protocol, Service, Workload
from hbone.discovery.store import Update
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


class Registry:
    """All leases. What a call returns as an Update is to be applied to the store at once.

    A member of a group outlives its machine's connection for a while (`lose`), unhealthy, for the machine to claim
    it again; and it changes with its group (`regroup`).
    """

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
        self._groups: Mapping[str, Workload] = {}

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
        template = self._template(wish)
        instead_of = instead_of or self._unclaimed_by(wish, holder)
        self._check_limits(wish, holder, instead_of)
        wish = replace(wish, name=self._name(wish, instead_of))
        uid = self._uid(wish)
        addresses = self._addresses(wish, holder, uid) or self._assigned(uid, holder, instead_of)
        services = self._services(wish, holder)
        workload = self._workload(replace(wish, addresses=addresses), services, template)
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

    # groups

    def regroup(self, groups: Mapping[str, Workload]) -> Update:
        """These are the groups from now on ("namespace/name" → what their members are): their members change with
        them. Members of a group that is gone leave the mesh; they are back with their group."""
        self._groups = groups
        workloads: list[Workload] = []
        gone: list[str] = []
        for uid, lease in self._leases.items():
            if not lease.wish.group:
                continue
            template = groups.get(_group_of(lease.wish))
            if template is None or template.service_account != lease.wish.service_account:
                gone.append(uid)
                continue
            wish = replace(lease.wish, addresses=lease.workload.addresses)
            health = lease.workload.health
            workload = replace(self._workload(wish, lease.services, template), health=health)
            self._leases[uid] = replace(lease, workload=workload)
            workloads.append(workload)
        return self._update(tuple(gone), tuple(workloads))

    def lose(self, lease: Lease) -> tuple[Lease, Update]:
        """A member's machine is not connected any more: unhealthy, and its holder's to claim. Nothing for a lease that
        has ended or is another's already."""
        uid = lease.workload.uid
        held = self._leases.get(uid)
        if held is None or held.holder is not lease.holder or uid in self._unclaimed:
            return lease, Update()
        lost = replace(held, workload=replace(held.workload, health=Health.UNHEALTHY))
        self._leases[uid] = lost
        self._unclaimed.add(uid)
        return lost, self._update((), (lost.workload,))

    def is_lost(self, lease: Lease) -> bool:
        """Whether nobody has claimed it since it was lost."""
        uid = lease.workload.uid
        held = self._leases.get(uid)
        return uid in self._unclaimed and held is not None and held.holder is lease.holder

    def member_identity(self, namespace: str, group: str) -> SpiffeId:
        """Of every machine of a group; raises RegistrationRefused where there is none of that name."""
        return self._known(namespace, group).identity

    def _known(self, namespace: str, group: str) -> Workload:
        template = self._groups.get(group_key(namespace, group))
        if template is None:
            known = ", ".join(sorted(self._groups)) or "none"
            raise RegistrationRefused(
                f"there is no WorkloadGroup {group_key(namespace, group)[:300]}",
                why=f"there are: {known[:300]}",
                fix="add it to the manifests",
            )
        return template

    def _template(self, wish: Wish) -> Workload | None:
        if not wish.group:
            return None
        template = self._known(wish.namespace, wish.group)
        if template.service_account != wish.service_account:
            raise RegistrationRefused(
                f"{wish.namespace}/{wish.service_account} is no member of the WorkloadGroup {_group_of(wish)}",
                why=f"its machines have the service account {template.service_account}",
                fix="join with a token that `hbone token create --group` made",
            )
        return template

    def _workload(self, wish: Wish, services: tuple[Service, ...], template: Workload | None) -> Workload:
        """As granted: the name and the addresses are the wish's."""
        own = {service.key: service.ports for service in services}
        protocol = Protocol.HBONE if wish.hbone_port else Protocol.TCP
        if template is not None:
            return replace(
                template,
                uid=self._uid(wish),
                name=wish.name,
                addresses=wish.addresses,
                protocol=template.protocol if wish.hbone_port else protocol,
                node=wish.node or template.node,
                services={**template.services, **own},
                hbone_port=wish.hbone_port or template.hbone_port,
            )
        return Workload(
            uid=self._uid(wish),
            name=wish.name,
            namespace=wish.namespace,
            addresses=wish.addresses,
            network=self._network,
            protocol=protocol,
            trust_domain=self._trust_domain,
            service_account=wish.service_account,
            node=wish.node,
            canonical_name=wish.name,
            workload_name=wish.name,
            services=own,
            cluster_id=self._cluster_id,
            hbone_port=wish.hbone_port or HBONE_PORT,
        )

    def unclaimed(self) -> tuple[Lease, ...]:
        """Restored leases without a program."""
        return tuple(self._leases[uid] for uid in sorted(self._unclaimed))

    def _unclaimed_by(self, wish: Wish, holder: Holder) -> Lease | None:
        """By its name; a machine of a group, which forgets its name when it starts anew, also by where it is."""
        uid = self._uid(wish)
        lease = self._leases.get(uid) if wish.name and uid in self._unclaimed else None
        if lease is not None:
            return lease if lease.holder.uid == holder.uid else None
        if not wish.group or wish.name:
            return None
        at = set(wish.addresses) or {ip for ip in holder.addresses if not ip.is_loopback}
        for one in self.unclaimed():
            same = _group_of(one.wish) == _group_of(wish) and one.holder.uid == holder.uid
            if same and (not at or at & set(one.workload.addresses)):
                return one
        return None

    def release(self, lease: Lease) -> Update:
        """The lease ends; nothing if it has ended already."""
        held = self._leases.get(lease.workload.uid)
        if held is None or held.holder is not lease.holder:
            return Update()
        return self._update(self._drop(held), ())

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
            taken = self._taken_by(wish, own)
            if taken:
                raise Conflict(f"the name {wish.namespace}/{wish.name} is taken", why=taken, fix="choose another name")
            return wish.name
        if instead_of is not None and wish.group:
            return instead_of.workload.name
        for name in _variants(wish.group or wish.service_account):
            if not self._taken_by(replace(wish, name=name), own):
                return name
        raise RegistrationRefused(
            f"no name can be made from the service account {wish.service_account!r}", fix="give a name"
        )

    def _taken_by(self, wish: Wish, own_uid: str) -> str:
        uid = self._uid(wish)
        lease = self._leases.get(uid)
        if lease is not None and uid != own_uid:
            return f"{lease.holder.label} registered it"
        for workload in self._directory.workloads_called(wish.namespace, wish.name):
            if workload.uid != own_uid and (workload.uid != uid or lease is None):
                return f"it is the workload {workload.uid}"
        return ""

    def _uid(self, wish: Wish) -> str:
        """A group's member is the WorkloadEntry that istiod would make of it."""
        kind = "networking.istio.io/WorkloadEntry" if wish.group else "hbone/Registration"
        return f"{self._cluster_id}/{kind}/{wish.namespace}/{wish.name}"

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


def _group_of(wish: Wish) -> str:
    return group_key(wish.namespace, wish.group)


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
