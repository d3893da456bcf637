"""`dataclass` as the standard library has it, but with methods that are written when the first of them is needed.

    from hbone.values import dataclass

The standard library compiles `__init__`, `__repr__`, `__eq__`, `__hash__` and two more when a class is defined: half a
millisecond. A node defines 250 such classes before it is ready, an eighth of a second of its start, makes instances of
a third of them, and compares those of a few. Here a class with slots costs a twentieth of that to define: fields and
slots are made at once, each method is a `_Later`, and the first look at it puts the real one in its place. From then on
the class is like any other, at the same speed. `__init__` is written here, since the standard library could not do it
without two more; all else is its own work. To type checkers this *is* its function.

The standard library's `__init__` of a frozen class calls `object.__setattr__` for each field, three times as dear as
setting it: 5 µs for a workload, of which there may be 200,000. Ours, of several fields, makes the object one of a
subclass that can be changed, sets the fields, and gives it its class back, before `__post_init__`.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass

__all__ = ["dataclass"]

T = TypeVar("T")

_WRITTEN: Final = ("__init__", "__repr__", "__eq__")
_SEVERAL: Final = 6  # what is saved with fewer fields is not worth a subclass


def _define(*, slots: bool = False, frozen: bool = False, kw_only: bool = False, **more: bool) -> Callable[[Any], Any]:
    """The decorator. Other forms than those of this house (slots, frozen, kw_only) are the standard library's."""
    whole = dataclasses.dataclass(slots=slots, frozen=frozen, kw_only=kw_only, **more)
    if not slots or more:
        return whole

    def define(given: type[Any]) -> type[Any]:
        if dataclasses.is_dataclass(given):  # its base is one
            return whole(given)
        own = vars(given)
        hashed = own.get("__hash__") is not None or ("__hash__" in own and "__eq__" not in own)
        given.__doc__ = given.__doc__ or given.__name__  # or its signature would be put together for it
        made: type[Any] = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(given)
        if len(made.__dataclass_fields__) != len(dataclasses.fields(made)):
            raise TypeError(f"{made.__qualname__}: a class or init variable needs the standard library's dataclass")
        for name in _WRITTEN:
            if name not in own:
                setattr(made, name, _Later(name, made))
        rest: dict[str, object] = dict(_FROZEN) if frozen else {}
        rest["__dataclass_params__"] = vars(_Frozen if frozen else _Free)["__dataclass_params__"]
        if not hashed:  # as the table in the standard library's documentation has it
            rest["__hash__"] = _Later("__hash__", made) if frozen else None
        for name, method in rest.items():
            setattr(made, name, method)
        return made

    return define


if not TYPE_CHECKING:
    dataclass = _define


@dataclasses.dataclass(frozen=True)
class _Frozen:
    """Says for all of its kind what they are."""


@dataclasses.dataclass
class _Free:
    """Says for all of its kind what they are."""


class _Later:
    """A method that is not written yet, in the place where it will be."""

    __slots__ = ("name", "owner")

    def __init__(self, name: str, owner: type[Any]) -> None:
        self.name = name
        self.owner = owner

    def __get__(self, instance: object, kind: type | None = None) -> Any:
        _write(self.owner, self.name)
        method = vars(self.owner)[self.name]
        return method if instance is None else method.__get__(instance, kind)


def _write(owner: type[Any], name: str) -> None:
    """Put the real methods where `owner` has a `_Later`: `__init__`, or all the others."""
    written = {"__init__": _init_of(owner)} if name == "__init__" else _others_of(owner)
    for one, method in written.items():
        if isinstance(vars(owner)[one], _Later):
            method.__qualname__ = f"{owner.__qualname__}.{one}"
            setattr(owner, one, method)


def _frozen(owner: type[Any]) -> bool:
    return vars(owner).get("__setattr__") is _refuse_to_set


def _others_of(owner: type[Any]) -> dict[str, Any]:
    """What the standard library writes for a class of the same fields."""
    fields = [(one.name, one.type, _same(one)) for one in dataclasses.fields(owner)]
    model = dataclasses.make_dataclass(
        owner.__name__,
        fields,
        namespace={"__doc__": owner.__doc__},
        init=False,
        match_args=False,
        unsafe_hash=_frozen(owner),
    )
    return {name: vars(model)[name] for name in ("__repr__", "__eq__", "__hash__")}


def _init_of(owner: type[Any]) -> Any:
    """`__init__` of the fields: those by position, those by name, then each set as the class allows."""
    fields = dataclasses.fields(owner)
    known: dict[str, Any] = {"_FACTORY": _FACTORY}
    by_place = [_parameter(one, known) for one in fields if one.init and not one.kw_only]
    by_name = [_parameter(one, known) for one in fields if one.init and one.kw_only]
    values = {one.name: value for one in fields if (value := _value(one, known))}
    lines = _setting(owner, values, known)
    if hasattr(owner, "__post_init__"):
        lines.append("self.__post_init__()")
    parameters = ", ".join(["self", *by_place, *(["*"] if by_name else []), *by_name])
    exec(f"def __init__({parameters}):\n " + "\n ".join(lines or ["pass"]), known)  # noqa: S102  # names of fields only
    written = known["__init__"]
    written.__annotations__ = {**{one.name: one.type for one in fields if one.init}, "return": None}
    return written


def _parameter(one: "dataclasses.Field[Any]", known: dict[str, Any]) -> str:
    if one.default_factory is not dataclasses.MISSING:
        return f"{one.name}=_FACTORY"
    if one.default is dataclasses.MISSING:
        return one.name
    known[f"_default_{one.name}"] = one.default
    return f"{one.name}=_default_{one.name}"


def _value(one: "dataclasses.Field[Any]", known: dict[str, Any]) -> str:
    """The expression that a field is set to; empty for one that nothing is known of."""
    if one.default_factory is not dataclasses.MISSING:
        known[f"_make_{one.name}"] = one.default_factory
        return f"_make_{one.name}() if {one.name} is _FACTORY else {one.name}" if one.init else f"_make_{one.name}()"
    if one.init:
        return one.name
    known[f"_default_{one.name}"] = one.default
    return "" if one.default is dataclasses.MISSING else f"_default_{one.name}"


def _setting(owner: type[Any], values: dict[str, str], known: dict[str, Any]) -> list[str]:
    """The lines that give each field its value: as attributes, by the slots themselves, or in a subclass."""
    plain = [f"self.{name} = {value}" for name, value in values.items()]
    if not _frozen(owner):
        return plain
    if len(values) < _SEVERAL:
        known |= {f"_set_{name}": vars(owner)[name].__set__ for name in values}
        return [f"_set_{name}(self, {value})" for name, value in values.items()]
    allowed = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    kind: Any = type(owner)
    known |= {"_owner": owner, "_open": kind(owner.__name__, (owner,), allowed), "_become": object.__setattr__}
    return ["_become(self, '__class__', _open)", *plain, "self.__class__ = _owner"]


class _Factory:
    """The default of a parameter whose value is made for each instance."""

    def __repr__(self) -> str:
        return "<factory>"


_FACTORY: Final = _Factory()


def _same(one: "dataclasses.Field[Any]") -> Any:
    """The same field for another class."""
    return dataclasses.field(
        default=one.default,
        default_factory=one.default_factory,
        init=one.init,
        repr=one.repr,
        hash=one.hash,
        compare=one.compare,
        kw_only=one.kw_only,
    )


def _refuse_to_set(_: object, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_to_delete(_: object, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[object]:
    """For `pickle` and `copy`, which would set the fields one by one."""
    return [getattr(self, one.name) for one in dataclasses.fields(self)]


def _restore(self: Any, state: list[object]) -> None:
    for one, value in zip(dataclasses.fields(self), state, strict=True):
        object.__setattr__(self, one.name, value)


_FROZEN: Final = {
    "__setattr__": _refuse_to_set,
    "__delattr__": _refuse_to_delete,
    "__getstate__": _state,
    "__setstate__": _restore,
}
