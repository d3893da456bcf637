"""What the commands about the CA share: reaching it, times, and its status in words."""

import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hbone.cli.output import Style, duration, styled, table

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from hbone.app.administer import Operations
    from hbone.control.channel import ControlRefused
    from hbone.errors import HboneError
    from hbone.proto.admin_pb2 import CaStatusResponse, FederatedDomain

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_COUNTDOWN = re.compile(r"\d+ s more")
_TIMES = frozenset({"since", "not_after", "root_not_after", "issued_at", "revoked_at", "taken_at", "looked_at"})


def state_dir_option(command: Command) -> Command:
    """Adds `--state-dir`; the command gets it as `state_dir`."""
    option = click.option(
        "--state-dir", type=click.Path(path_type=Path), help="State directory of `hbone up`, running or not."
    )
    return option(command)


def operate(state_dir: Path | None, do: "Callable[[Operations, bool], Awaitable[T]]") -> T:
    """Run `do` with the CA's operations, and whether a control plane runs; raises HboneError."""

    import asyncio  # here: a third of the time of `hbone ca --help`

    async def run() -> T:
        from hbone.app.administer import administering
        from hbone.app.place import Place
        from hbone.control.channel import ControlRefused

        try:
            async with administering(Place(environment=dict(os.environ), state_dir=state_dir)) as (operations, running):
                return await do(operations, running)
        except ControlRefused as error:
            raise _in_its_words(error) from error

    work: Coroutine[Any, Any, T] = run()
    return asyncio.run(work)


def _in_its_words(error: "ControlRefused") -> "HboneError":
    """What the control plane said about a request, as if it had been said here."""
    from hbone.errors import HboneError, UsageError

    text = error.why.removeprefix(f"{error.code}: ")
    match error.code:
        case "INVALID_ARGUMENT":
            return UsageError(text)
        case "FAILED_PRECONDITION" | "PERMISSION_DENIED":
            return HboneError(text)
        case _:
            return error


async def gathered(pages: AsyncIterator[T]) -> list[T]:
    return [page async for page in pages]


def as_json(message: "Message") -> dict[str, Any]:
    """A message for a machine: its own field names, times as ISO 8601, an unset time as null."""
    from google.protobuf.json_format import MessageToDict

    found = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return _with_moments(found)


def _with_moments(values: dict[str, Any]) -> dict[str, Any]:
    return {name: _moment(value) if name in _TIMES else _inside(value) for name, value in values.items()}


def _inside(value: Any) -> Any:
    match value:
        case dict():
            return _with_moments(cast("dict[str, Any]", value))
        case list():
            return [_inside(one) for one in cast("list[Any]", value)]  # type: ignore[redundant-cast]  # not to pyright
        case _:
            return value


def _moment(seconds: float) -> str | None:
    return moment(seconds) if seconds else None


def moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%FT%TZ}"


def status_text(status: "CaStatusResponse", stream: Any) -> str:
    """For people."""
    revoked = (status.revoked_serials, status.revoked_keys, status.revoked_identities)
    aware = [node for node in status.nodes if node.aware]
    current = sum(1 for node in aware if node.current)
    facts = [
        ("trust domain", status.trust_domain),
        ("rotation", rotation_text(status)),
        ("bundle", f"{status.bundle_sequence}, in force on {current} of {_count(len(status.nodes), 'connected node')}"),
        ("certificates", f"{status.certificates_in_use} in use"),
        ("revoked", f"{_count(revoked[0], 'certificate')}, {_count(revoked[1], 'key')}, {_identities(revoked[2])}"),
    ]
    now = datetime.now(UTC).timestamp()
    authorities = [
        (
            one.number,
            one.state,
            one.signer,
            duration(one.not_after - now) if one.not_after > now else "ended",
            one.root,
            duration(one.root_not_after - now) if one.root_not_after > now else "ended",
            one.certificates_in_use,
        )
        for one in status.authorities
        if one.state != "retired"
    ]
    blocks = [
        "\n".join(f"{name:<12}  {value}" for name, value in facts),
        table(("no", "state", "signs as", "for", "below root", "for", "in use"), authorities),
    ]
    if status.nodes:
        rows = [(node.node, node.caller, _bundle(node)) for node in status.nodes]
        blocks.append(table(("node", "caller", "bundle"), rows))
    if status.federated:
        blocks.append(table(_FEDERATED, [_federated_row(one, now) for one in status.federated]))
    blocks += [styled(f"warning: {warning}", Style.WARNING, stream) for warning in status.warnings]
    return "\n\n".join(blocks)


_FEDERATED = ("federated", "bundle", "roots", "jwt keys", "age", "seen", "next look", "from")


def _federated_row(one: "FederatedDomain", now: float) -> tuple[object, ...]:
    def ago(moment: float) -> str | None:
        return f"{duration(max(0.0, now - moment))} ago" if moment else None

    return (
        one.trust_domain,
        (one.sequence if one.HasField("sequence") else "without number") if one.taken_at else "none yet",
        one.roots,
        one.jwt_keys,
        duration(max(0.0, now - one.taken_at)) if one.taken_at else None,
        ago(one.looked_at),
        f"in {duration(one.next_look_s)}" if one.HasField("next_look_s") else None,
        one.source or None,
    )


def rotation_text(status: "CaStatusResponse") -> str:
    rotation = status.rotation
    waiting = "; ".join(rotation.waiting)
    return f"{rotation.phase}: {waiting}" if waiting else rotation.phase


async def steps_of(statuses: "AsyncIterator[CaStatusResponse]") -> "AsyncGenerator[CaStatusResponse]":
    """Those that have news of the rotation: of a countdown (15 minutes, with a bundle endpoint) the first alone."""
    said = ""
    async for status in statuses:
        if (text := _COUNTDOWN.sub("", rotation_text(status))) != said:
            said = text
            yield status


def _bundle(node: Any) -> str:
    if not node.aware:
        return "with its next certificate"
    if node.refused:
        return f"refused: {node.refused}"
    return "current" if node.current else "behind"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _identities(number: int) -> str:
    return "1 identity" if number == 1 else f"{number} identities"
