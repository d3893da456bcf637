"""What rules list, from text: patterns, service accounts, address ranges, ports, paths; a Problem for what is wrong."""

import re
from collections.abc import Callable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from hbone.addr import InvalidAddress, Prefix
from hbone.documents.fields import Section
from hbone.documents.values import Path
from hbone.identity.spiffe import SCHEME
from hbone.policy.match import Kind
from hbone.policy.model import Account, Pattern, Template, Value
from hbone.policy.paths import check_template, is_template

MAX_ACCOUNT_CHARS: Final = 320
_MAPPED: Final = ip_network("::ffff:0:0/96")
_PORT: Final = re.compile(r"[0-9]{1,5}")
_LENGTH: Final = re.compile(r"[0-9]{1,3}")  # of a range's prefix


def parse_prefix(text: str) -> Prefix:
    """An address or a range, host bits or not; a range of v4-mapped addresses is one of IPv4. Raises InvalidAddress."""
    _, slash, length = text.partition("/")
    try:
        if slash and not _LENGTH.fullmatch(length):  # the library takes masks too, and 0.0.0.0 for everything
            raise ValueError(length)
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidAddress(
            f"{text[:80]!r} is neither an IP address nor a range", fix="write 10.0.0.1, 10.0.0.0/8 or fd00::/8"
        ) from error
    return Prefix(plain_network(network))


def plain_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """As facts have their addresses: without v4-mapped forms, and without zones."""
    if isinstance(network, IPv6Network):
        if network.network_address.scope_id is not None:
            raise InvalidAddress(f"{network} carries a zone", fix="write the address without %zone")
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= _MAPPED.prefixlen:
            return IPv4Network((mapped, network.prefixlen - _MAPPED.prefixlen))
    return network


def parse_policy_port(text: str) -> int:
    """A port from 0 to 65535 in decimal; raises InvalidAddress."""
    if _PORT.fullmatch(text) and int(text) < 65536:
        return int(text)
    raise InvalidAddress(f"{text[:80]!r} is not a port", fix='write a number from 0 to 65535 in quotes, as in "8080"')


def parse_account(text: str, namespace: str) -> Account:
    """`account`, of the policy's own namespace, or `namespace/account`; raises InvalidAddress."""
    fix = "write an account of the policy's own namespace, or namespace/account, for example web/frontend"
    if len(text) > MAX_ACCOUNT_CHARS:
        raise InvalidAddress(f"a service account of {len(text)} characters", fix=f"use {MAX_ACCOUNT_CHARS} at most")
    if "*" in text:
        raise InvalidAddress(f"{text!r} has a wildcard", fix=f"{fix}; for patterns use principals")
    parts = text.split("/")
    if len(parts) > 2 or not all(parts):
        raise InvalidAddress(f"{text!r} is not a service account", fix=fix)
    return Account(namespace, parts[0]) if len(parts) == 1 else Account(*parts)


def _parse_principal(text: str) -> Value:
    if text.startswith(SCHEME):
        raise InvalidAddress(
            f"{text!r} would never fit: policies leave {SCHEME} out", fix=f"write {text.removeprefix(SCHEME)}"
        )
    return Pattern.parse(text)


def _parse_trust_domain(text: str) -> Value:
    if "/" in text:
        raise InvalidAddress(f"{text!r} is not a trust domain", fix="leave out what follows the first '/'")
    if text.count("*") > 1 or "*" in text[1:-1]:
        raise InvalidAddress(f"{text!r} has a '*' inside", fix="use one '*' at most, at the beginning or the end")
    return Pattern.parse(text)


def _parse_path(text: str) -> Value:
    if not is_template(text):
        if "{" in text or "}" in text:
            raise InvalidAddress(
                f"{text[:80]!r} has a brace that is no template", fix="write {*} or {**} between slashes"
            )
        return Pattern.parse(text)
    check_template(text)
    return Template(text)


_PARSE: Final[Mapping[Kind, Callable[[str], Value]]] = {
    Kind.PRINCIPAL: _parse_principal,
    Kind.TRUST_DOMAIN: _parse_trust_domain,
    Kind.ADDRESS: parse_prefix,
    Kind.PORT: parse_policy_port,
    Kind.PATH: _parse_path,
}


def read_value(section: Section, path: Path, text: str, kind: Kind, namespace: str) -> Value | None:
    """One item of a list; None, with a problem, when it is none of `kind`. `namespace` is the policy's own."""
    if text == "":
        section.problem(path, "is empty", "write a value, or remove it")
        return None
    if kind is Kind.ACCOUNT:
        return section.parsed(path, text, lambda given: parse_account(given, namespace))
    return section.parsed(path, text, _PARSE.get(kind, Pattern.parse))


def read_values(section: Section, key: str, kind: Kind, namespace: str) -> tuple[Value, ...]:
    """A list of texts; wrong items are reported and left out."""
    found = [read_value(section, path, text, kind, namespace) for path, text in _texts(section, key)]
    return tuple(dict.fromkeys(value for value in found if value is not None))


def _texts(section: Section, key: str) -> Iterator[tuple[Path, str]]:
    """As `Section.texts`, but tells numbers, most often ports, how to become texts."""
    for path, value in section.values(key):
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            section.problem(path, f"{value} is a number", f'write it in quotes: "{value}"')
        else:
            section.wrong_type(path, value, "text")


def bracketed(text: str) -> tuple[str, ...] | None:
    """`[a][b]` → ("a", "b"); None when it is anything else."""
    if not re.fullmatch(r"(?:\[[^\[\]]+\])+", text):
        return None
    return tuple(re.findall(r"\[([^\[\]]+)\]", text))
