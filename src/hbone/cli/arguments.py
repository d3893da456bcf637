"""What commands take on their lines: identities, ports, HOST:PORT; a wrong one is told with what would be right."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.addr import Authority, SocketAddress
    from hbone.config.listen import Listen
    from hbone.config.refs import AccountRef, WorkloadRef


PATH: Final = click.Path(path_type=Path, readable=False)  # who opens it knows best what is wrong with it


class AccountType(click.ParamType[Any]):
    """NAMESPACE/ACCOUNT."""

    name = "NS/SA"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "AccountRef":
        from hbone.config.refs import AccountRef, InvalidReference

        if isinstance(value, AccountRef):
            return value
        try:
            return AccountRef.parse(str(value))
        except InvalidReference as error:
            self.fail(str(error), param, ctx)


ACCOUNT = AccountType()


class GroupType(click.ParamType[Any]):
    """NAMESPACE/NAME."""

    name = "NS/NAME"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> "WorkloadRef":
        from hbone.config.refs import InvalidReference, WorkloadRef

        if isinstance(value, WorkloadRef):
            return value
        try:
            return WorkloadRef.parse(str(value))
        except InvalidReference as error:
            self.fail(str(error), param, ctx)


GROUP = GroupType()


@dataclass(frozen=True)
class ForwardArgument:
    """[ADDR:]PORT:HOST:PORT, taken apart."""

    listen: "Listen"
    target: "Authority"


class ForwardType(click.ParamType[Any]):
    """[ADDR:]PORT:HOST:PORT."""

    name = "[ADDR:]PORT:HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> ForwardArgument:
        from hbone.addr import InvalidAddress, parse_authority
        from hbone.config.listen import InvalidListen, parse_listen

        local, target = _split_forward(str(value))
        if not local or not target:
            self.fail(f"{value!r} is not a forward; write 9000:cart.shop:80 or 127.0.0.1:9000:cart.shop:80", param, ctx)
        try:
            listen = parse_listen(local if ":" in local or local.startswith("unix") else f"127.0.0.1:{local}")
            return ForwardArgument(listen, parse_authority(target))
        except (InvalidListen, InvalidAddress) as error:
            self.fail(str(error), param, ctx)


FORWARD = ForwardType()


def _split_forward(text: str) -> tuple[str, str]:
    """Local part and target; the target is the last two parts, an IPv6 address in brackets being one."""
    head, _, port = text.rpartition(":")
    if head.endswith("]"):
        start = head.rfind("[")
        local, host = head[:start].removesuffix(":"), head[start:]
    else:
        local, _, host = head.rpartition(":")
    return local, f"{host}:{port}" if host and port else ""


class ExposePortType(click.ParamType[Any]):
    """PORT, MESHPORT:PORT, ADDR:PORT or MESHPORT:ADDR:PORT; the mesh's port is the local one unless it is given."""

    name = "[MESHPORT:][ADDR:]PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> "tuple[int, SocketAddress]":
        from hbone.addr import InvalidAddress, SocketAddress, parse_port

        first, colon, rest = str(value).partition(":")
        given = colon and first.isdecimal()
        text = rest if given else str(value)
        text = re.sub(r"^localhost:", "127.0.0.1:", text if ":" in text else f"127.0.0.1:{text}")
        try:
            local = SocketAddress.parse(text)
            return parse_port(first) if given else local.port, local
        except InvalidAddress as error:
            self.fail(f"{error}; the form is {self.name}, for example 8080 or 80:127.0.0.1:8080", param, ctx)


EXPOSE_PORT = ExposePortType()


def by_mesh_port(exposes: "Iterable[tuple[int, SocketAddress]]") -> "dict[int, SocketAddress]":
    """The mesh's ports and where each leads; raises click.BadParameter for one that leads to two places."""
    found: dict[int, SocketAddress] = {}
    for port, local in exposes:
        if found.setdefault(port, local) != local:
            raise click.BadParameter(
                f"port {port} of the mesh cannot be {found[port]} and {local}; "
                f"give each a port of its own, for example {port}:{found[port].port} {port + 1}:{local.port}"
            )
    return found
