"""What a WorkloadEntry says, alone or as an inline endpoint of a ServiceEntry."""

from collections.abc import Mapping
from typing import Final

from hbone.addr import InvalidAddress, IpAddress, parse_host, parse_ip
from hbone.discovery.model import HBONE_PORT, NO_LOCALITY, Locality, workload_identity
from hbone.documents.fields import Section, shown
from hbone.identity.spiffe import InvalidSpiffeId
from hbone.values import dataclass

HBONE_PORT_NAME: Final = "hbone"  # the entry of `ports` that says where the node proxy listens, instead of 15008
_FIELDS: Final = frozenset(("address", "ports", "labels", "network", "locality", "weight", "serviceAccount"))
_MAX_WEIGHT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySpec:
    """One place where a program runs. It has an address or a host name; `service_account` is empty where none is
    given; `network` None where it is the mesh's own. `place` is where it is written, for problems."""

    place: Section
    address: IpAddress | None
    hostname: str
    ports: Mapping[str, int]
    labels: Mapping[str, str]
    network: str | None
    locality: Locality
    capacity: int
    service_account: str
    hbone_port: int


def read_entry(section: Section, namespace: str, trust_domain: str) -> EntrySpec | None:
    """The spec of a WorkloadEntry; None, with problems, when it has no usable address."""
    target = _address(section)
    spec = _read(section, namespace, trust_domain, target)
    return spec if target is not None else None


def read_template(section: Section, namespace: str, trust_domain: str) -> EntrySpec:
    """The spec of entries that are still to come, as a WorkloadGroup has it: all but the address."""
    if section.raw("address") is not None:
        section.problem("address", "a group has no address", "leave it out: each machine brings its own")
    return _read(section, namespace, trust_domain, None)


def _read(section: Section, namespace: str, trust_domain: str, target: IpAddress | str | None) -> EntrySpec:
    section.know(_FIELDS)
    ports = section.ports("ports")
    hbone_port = ports.pop(HBONE_PORT_NAME, HBONE_PORT)
    spec = EntrySpec(
        place=section,
        address=target if not isinstance(target, str) else None,
        hostname=target if isinstance(target, str) else "",
        ports=ports,
        labels=section.labels("labels"),
        network=section.text("network") or None,
        locality=_locality(section.text("locality")),
        capacity=section.integer("weight", 1, 1, _MAX_WEIGHT),
        service_account=_account(section, namespace, trust_domain),
        hbone_port=hbone_port,
    )
    section.finish()
    return spec


def _address(section: Section) -> IpAddress | str | None:
    text = section.required_text("address", "10.0.0.7")
    if text is None:
        return None
    if text.startswith("unix:"):
        section.problem("address", f"{shown(text)} is a Unix socket", "write an IP address or a host name")
        return None
    if "/" in text or text.replace(".", "").isdigit() or ":" in text:
        return section.parsed(("address",), text, parse_ip)
    try:
        return parse_host(text)
    except InvalidAddress:
        section.problem("address", f"{shown(text)} is neither an IP address nor a host name", "write 10.0.0.7")
        return None


def _locality(text: str) -> Locality:
    if not text:
        return NO_LOCALITY
    region, _, rest = text.partition("/")
    zone, _, subzone = rest.partition("/")
    return Locality(region=region, zone=zone, subzone=subzone)


def _account(section: Section, namespace: str, trust_domain: str) -> str:
    account = section.text("serviceAccount")
    if not account:
        return ""
    try:
        workload_identity(trust_domain, namespace, account)
    except InvalidSpiffeId:
        fix = "use a-z A-Z 0-9 '.' '-' '_', for example cart"
        section.problem("serviceAccount", f"{shown(account)} cannot stand in a SPIFFE ID", fix)
        return ""
    return account
