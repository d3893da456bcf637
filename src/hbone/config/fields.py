"""The types of settings' values, and how a setting is declared.

A setting says everything about itself in one place: default, meaning, ztunnel's environment names for it and
what a changed value takes to apply. Loading, documentation, JSON Schema, `--print-config` and reload read that.
"""

from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, ClassVar, Final, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    Strict,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from hbone.addr import Authority, HostPort, SocketAddress, parse_authority
from hbone.config.listen import InheritedListen, TcpListen, UnixListen, parse_listen
from hbone.config.refs import AccountPattern, AccountRef, WorkloadInfo, WorkloadRef
from hbone.config.units import RATE, format_rate, parse_duration, parse_rate, parse_size
from hbone.errors import HboneError
from hbone.identity.spiffe import TrustDomain, parse_trust_domain
from hbone.protocol.limits import Rate

T = TypeVar("T")


class Applies(Enum):
    """What it takes for a changed value to be in force."""

    LIVE = "live"
    """At once, for what begins from now on."""
    DRAIN = "drain"
    """Listeners or tunnels are replaced; what they carry may finish."""
    RESTART = "restart"
    """The process has to be started again."""


class Settings(BaseModel):
    """Base of all settings: frozen, strict about keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        defer_build=True,  # a schema is made when its model is first used: most processes need half of them
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        use_attribute_docstrings=False,
        validate_default=False,
    )


def setting(
    default: Any, meaning: str, applies: Applies = Applies.RESTART, *, env: tuple[str, ...] = (), **limits: Any
) -> Any:
    """A field with everything known about it. `env`: ztunnel's names, the strongest first; `limits`: ge, le, gt."""
    # Where a type has a schema of its own, pydantic leaves the limits out of it.
    extra: dict[str, Any] = {"x-applies": applies.value, **limits}
    if env:
        extra["x-ztunnel-env"] = list(env)
    if isinstance(default, type) and issubclass(default, BaseModel):
        return Field(default_factory=default, description=meaning, json_schema_extra=extra)
    return cast("Any", Field(default=default, description=meaning, json_schema_extra=extra, **limits))


def required(meaning: str, alias: str | None = None) -> Any:
    """A field that has no default."""
    return Field(default=..., description=meaning, alias=alias)


def problem(error: HboneError) -> PydanticCustomError:
    """`error` in a form that pydantic collects with its place; `load.py` turns it into a Problem."""
    # Braces would be taken for a template's.
    return PydanticCustomError("hbone", "{what}", {"what": error.what, "fix": error.fix})


def parsed(parse: Callable[[Any], T], *kept: type) -> BeforeValidator:
    """Accepts a finished value of the types `kept`, and whatever `parse` makes one of."""

    def convert(value: Any) -> Any:
        if kept and isinstance(value, kept):
            return value
        try:
            return parse(value)
        except HboneError as error:
            raise problem(error) from error

    return BeforeValidator(convert)


def _from_text(parse: Callable[[str], T], *kept: type) -> BeforeValidator:
    def text_only(value: object) -> T:
        if type(value) is int:  # `listen: 8080`: what is missing is more than quotes
            return parse(str(value))
        if not isinstance(value, str):
            raise HboneError(f"{value!r} is not text", fix="put it in quotes")
        return parse(value)

    return parsed(text_only, *kept)


OFF: Final = frozenset({"off", "none", ""})


def _or_off(value: Any) -> Any:
    """None for `off`, which YAML 1.1 reads as false, and for `none`."""
    if value is False or (isinstance(value, str) and value.strip().lower() in OFF):
        return None
    return value


def _text_schema(*examples: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "examples": list(examples)})


def _no_flag(value: Any) -> Any:
    """A YAML `yes` is no number, though Python would count it as one."""
    if isinstance(value, bool):
        raise PydanticCustomError("int_type", "{what}", {"what": "not a number"})
    return value


_DURATION_TEXT: Final[dict[str, Any]] = {"type": "string", "pattern": r"^(\d+(\.\d+)?(ms|s|m|h|d))+$|^\d+(\.\d+)?$"}
_SIZE_TEXT: Final[dict[str, Any]] = {"type": "string", "pattern": r"^\d+(\.\d+)? ?(B|KiB|MiB|GiB|KB|MB|GB)?$"}
_OFF_SCHEMA: Final[dict[str, Any]] = {"enum": ["off", "none", False, None]}
_LISTEN_TEXT: Final[dict[str, Any]] = {
    "type": "string",
    "examples": ["127.0.0.1:15080", "[::]:15008", "unix:/run/hbone/admin.sock", "fd:3"],
}

Duration = Annotated[
    float,
    parsed(parse_duration),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, _DURATION_TEXT]}, mode="validation"),
]
"""Seconds."""
OptionalDuration = Annotated[
    float | None,
    parsed(lambda value: None if _or_off(value) is None else parse_duration(value)),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0}, _DURATION_TEXT, _OFF_SCHEMA]}, mode="validation"),
]
Size = Annotated[
    int,
    parsed(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, _SIZE_TEXT]}, mode="validation"),
]
"""Bytes."""
Count = Annotated[int, BeforeValidator(_no_flag)]

FrameRate = Annotated[
    Rate,
    parsed(parse_rate, Rate),
    PlainSerializer(format_rate, return_type=str),
    WithJsonSchema({"type": "string", "pattern": RATE.pattern, "examples": ["50/s burst 200"]}),
]
"""How many at once and then how many a second."""

_LISTEN_TYPES: Final = (TcpListen, UnixListen, InheritedListen)
_AS_TEXT: Final = PlainSerializer(str, return_type=str)
_AS_TEXT_OR_OFF: Final = PlainSerializer(lambda value: "off" if value is None else str(value), return_type=str)
ListenSetting = Annotated[
    TcpListen | UnixListen | InheritedListen,
    _from_text(parse_listen, *_LISTEN_TYPES),
    _AS_TEXT,
    WithJsonSchema(_LISTEN_TEXT),
]


def _trust_domain(value: TrustDomain) -> TrustDomain:
    try:
        return parse_trust_domain(value)
    except HboneError as error:
        raise problem(error) from error


def _listen_or_off(value: object) -> TcpListen | UnixListen | InheritedListen | None:
    kept = _or_off(value)
    if kept is None or isinstance(kept, _LISTEN_TYPES):
        return kept
    if not isinstance(kept, str | int):
        raise HboneError("not text", fix="write one listener, as 127.0.0.1:15080")
    return parse_listen(str(kept))


OptionalListen = Annotated[
    TcpListen | UnixListen | InheritedListen | None,
    parsed(_listen_or_off),
    _AS_TEXT_OR_OFF,
    WithJsonSchema({"anyOf": [_LISTEN_TEXT, _OFF_SCHEMA]}),
]
Target = Annotated[
    Authority,
    _from_text(parse_authority, SocketAddress, HostPort),
    _AS_TEXT,
    _text_schema("127.0.0.1:8080", "cart.shop.svc.cluster.local:80"),
]
"""HOST:PORT."""
Account = Annotated[AccountRef, _from_text(AccountRef.parse, AccountRef), _AS_TEXT, _text_schema("shop/cart")]
Pattern = Annotated[
    AccountPattern, _from_text(AccountPattern.parse, AccountPattern), _AS_TEXT, _text_schema("shop/cart", "shop/*", "*")
]
WorkloadName = Annotated[WorkloadRef, _from_text(WorkloadRef.parse, WorkloadRef), _AS_TEXT, _text_schema("shop/cart-0")]
OptionalWorkloadInfo = Annotated[
    WorkloadInfo | None,
    parsed(lambda value: value if value is None else WorkloadInfo.parse(str(value)), WorkloadInfo),
    PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None),
    WithJsonSchema({"anyOf": [{"type": "string", "examples": ["shop/cart-0/cart"]}, {"type": "null"}]}),
]
DomainName = Annotated[TrustDomain, Strict(), AfterValidator(_trust_domain)]


def split(value: Any) -> Any:
    """Istio writes a list into a variable with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


DomainNames = Annotated[tuple[DomainName, ...], BeforeValidator(split)]
NamespaceName = Annotated[
    str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
]  # a Kubernetes namespace (RFC 1123 label)
