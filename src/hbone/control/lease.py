"""Leases as values: what a program asks for, who it is, what it was granted, and why it may be refused."""

from hbone.addr import IpAddress
from hbone.discovery.model import PortMap, Service, Workload
from hbone.errors import HboneError
from hbone.identity.spiffe import SpiffeId
from hbone.values import dataclass


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
    `hbone_port` 0: nothing reaches this workload, it only calls others. `group`: the WorkloadGroup of its namespace
    that it is a member of, empty for none; the group says then what is not said here."""

    namespace: str
    service_account: str
    name: str = ""
    addresses: tuple[IpAddress, ...] = ()
    hbone_port: int = 0
    services: tuple[ServiceWish, ...] = ()
    node: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """What a registration got. `hostnames` of its services, in the order of the wish."""

    uid: str
    name: str
    addresses: tuple[IpAddress, ...]
    spiffe_id: SpiffeId
    hostnames: tuple[str, ...]


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
