"""`dataclass` as the standard library has it, but with methods that are written when the first of them is needed.

    from hbone.values import dataclass

The standard library compiles `__init__`, `__repr__`, `__eq__`, `__hash__` and two more when a class is defined: half a
millisecond. A node defines 250 such classes before it is ready, an eighth of a second of its start, and needs the
methods of a third of them. Here a class with slots costs a twentieth of that to define: fields and slots are made at
once, each method is a `_Later`, and the first look at any of them puts the standard library's own in the place of all.
From then on the class is like any other, at the same speed. To type checkers this *is* the standard library's function.

A frozen class of several fields has an `__init__` of ours. The standard library's calls `object.__setattr__` for each,
three times as dear as setting it: 5 µs for a workload, of which there may be 200,000. Ours makes the object one of a
subclass that can be changed, sets the fields, and gives it its class back, before `__post_init__`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass

__all__ = ["dataclass"]

T = TypeVar("T")

_WRITTEN: Final = ("__init__", "__repr__", "__eq__")
_SEVERAL: Final = 6  # what is saved with fewer fields is not worth a second function


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
        _write_methods(self.owner)
        method = vars(self.owner)[self.name]
        return method if instance is None else method.__get__(instance, kind)


def _write_methods(owner: type[Any]) -> None:
    """Put the methods of a class of the same fields where `owner` has a `_Later`."""
    fields = [(one.name, one.type, _same(one)) for one in dataclasses.fields(owner)]
    body = {"__post_init__": owner.__post_init__} if hasattr(owner, "__post_init__") else {}
    frozen = vars(owner).get("__setattr__") is _refuse_to_set
    model = dataclasses.make_dataclass(owner.__name__, fields, namespace=body, frozen=frozen)
    for name in [name for name, method in vars(owner).items() if isinstance(method, _Later)]:
        method = vars(model)[name]
        if frozen and name == "__init__" and len(fields) >= _SEVERAL:
            method = functools.wraps(method)(_filling(owner))
        method.__qualname__ = f"{owner.__qualname__}.{name}"
        setattr(owner, name, method)


def _filling(owner: type[Any]) -> Callable[..., None]:
    """`__init__` of a frozen class, as the standard library writes it for one that can be changed."""
    known: dict[str, Any] = {"absent": object(), "owner": owner, "become": object.__setattr__}
    allowed = {"__slots__": (), "__setattr__": object.__setattr__, "__delattr__": object.__delattr__}
    kind: Any = type(owner)
    known["changeable"] = kind(owner.__name__, (owner,), allowed)
    parameters: dict[bool, list[str]] = {False: [], True: []}
    lines = ["become(self, '__class__', changeable)"]
    for one in dataclasses.fields(owner):
        usual, given = f"usual_{one.name}", one.name
        has_default, is_made = one.default is not dataclasses.MISSING, one.default_factory is not dataclasses.MISSING
        known[usual] = one.default_factory if is_made else one.default
        if not one.init:
            given = f"{usual}()" if is_made else usual
        elif is_made:
            parameters[one.kw_only is True].append(f"{one.name}=absent")
            given = f"{usual}() if {one.name} is absent else {one.name}"
        else:
            parameters[one.kw_only is True].append(f"{one.name}={usual}" if has_default else one.name)
        if one.init or has_default or is_made:
            lines.append(f"self.{one.name} = {given}")
    lines += ["self.__class__ = owner", *(["self.__post_init__()"] if hasattr(owner, "__post_init__") else [])]
    named = ["*", *parameters[True]] if parameters[True] else []
    head = f"def __init__({', '.join(['self', *parameters[False], *named])}):"
    exec("\n    ".join((head, *lines)), known)  # noqa: S102 - names of fields and nothing else, as in `dataclasses`
    written: Callable[..., None] = known["__init__"]
    return written


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
