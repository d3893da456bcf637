"""`hbone.values.dataclass`: the standard library's classes, with methods that come when they are needed."""

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import pytest

import hbone
from hbone.values import dataclass

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    number: int
    text: str = "x"
    notes: dict[str, int] = field(default_factory=dict[str, int], compare=False)
    secret: str = field(default="s", repr=False)
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.number)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    number: int
    text: str = "x"
    notes: dict[str, int] = field(default_factory=dict[str, int], compare=False)
    secret: str = field(default="s", repr=False)
    twice: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "twice", 2 * self.number)


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    first: T
    second: int = 0


@dataclass(slots=True)
class Open:
    number: int


def written(kind: type) -> bool:
    """Is `__init__` a function already?"""
    return inspect.isfunction(vars(kind)["__init__"])


def test_no_method_is_written_before_it_is_needed() -> None:
    @dataclass(frozen=True, slots=True)
    class Fresh:
        number: int

    before = written(Fresh)
    Fresh(1)
    assert (before, written(Fresh)) == (False, True)


@pytest.mark.parametrize("first", ["eq", "hash", "repr", "signature"])
def test_whichever_method_is_asked_for_first_is_there(first: str) -> None:
    @dataclass(frozen=True, slots=True)
    class Fresh:
        number: int = 1

    made = object.__new__(Fresh)
    object.__setattr__(made, "number", 7)
    ask: dict[str, Callable[[], object]] = {
        "eq": lambda: made.__eq__(made),
        "hash": lambda: hash(made),
        "repr": lambda: repr(made),
        "signature": lambda: inspect.signature(Fresh),
    }
    ask[first]()
    assert (repr(made), hash(made), made == Fresh(7)) == (f"{Fresh.__qualname__}(number=7)", hash((7,)), True)


def test_it_behaves_as_the_standard_librarys_does() -> None:
    ours, theirs = Whole(number=1, notes={"a": 1}), Model(number=1, notes={"a": 1})
    assert repr(ours).replace("Whole", "Model") == repr(theirs)
    assert (hash(ours), ours == Whole(number=1), ours.__eq__(theirs)) == (hash(theirs), True, NotImplemented)
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert dataclasses.replace(ours, number=2).twice == 4
    assert str(inspect.signature(Whole)) == str(inspect.signature(Model))
    assert (Whole.__match_args__, Pair.__match_args__) == (Model.__match_args__, ("first", "second"))


def test_defaults_and_what_no_argument_is_for() -> None:
    @dataclass(slots=True)
    class Mixed:
        first: int
        second: list[int] = field(default_factory=list[int])
        third: int = field(default=3, init=False)
        fourth: list[int] = field(default_factory=list[int], init=False)
        fifth: int = field(default=5, kw_only=True)

    one, other = Mixed(1), Mixed(1, [2], fifth=6)
    assert repr(one).endswith("(first=1, second=[], third=3, fourth=[], fifth=5)")
    assert repr(other).endswith("(first=1, second=[2], third=3, fourth=[], fifth=6)")
    assert one.second is not Mixed(1).second
    assert one.fourth is not Mixed(1).fourth


def test_a_frozen_one_cannot_be_changed() -> None:
    whole = Whole(number=1)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot assign to field 'number'"):
        whole.number = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot delete field 'number'"):
        del whole.number  # pyright: ignore[reportAttributeAccessIssue]


def test_one_that_is_not_frozen_changes_and_has_no_hash() -> None:
    one = Open(1)
    one.number = 2
    assert one == Open(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_a_class_keeps_the_methods_that_it_defines() -> None:
    @dataclass(frozen=True, slots=True)
    class Own:
        number: int

        def __repr__(self) -> str:
            return "mine"

        def __hash__(self) -> int:
            return 42

    assert (repr(Own(1)), hash(Own(1)), Own(1) == Own(1)) == ("mine", 42, True)


def test_it_has_slots_and_nothing_else() -> None:
    with pytest.raises(AttributeError):
        Open(1).other = 2  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("value", [Whole(number=3, notes={"a": 1}), Pair("a", 2), Open(5)])
def test_it_can_be_pickled_and_copied(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == copy.deepcopy(value) == value


def test_a_wrong_call_names_the_class_and_the_argument() -> None:
    with pytest.raises(TypeError, match=r"Whole\.__init__\(\) missing 1 required keyword-only argument: 'number'"):
        Whole()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True, slots=True)
class Many(Generic[T]):
    first: T
    second: int
    third: list[int] = field(default_factory=list[int])
    fourth: str = field(default="4", kw_only=True)
    fifth: int = field(init=False, default=5)
    sixth: list[int] = field(init=False, default_factory=list[int])
    seventh: int = field(init=False)

    def __post_init__(self) -> None:
        if type(self) is not Many:
            raise TypeError(type(self))
        if self.second < 0:
            raise ValueError(f"{self.first} has {self.second}")
        object.__setattr__(self, "seventh", self.second + 5)


def test_a_frozen_one_of_several_fields_is_filled_as_ever() -> None:
    one, two = Many("a", 2), Many("b", 3, [1], fourth="x")
    assert dataclasses.astuple(one) == ("a", 2, [], "4", 5, [], 7)
    assert (two.first, two.third, two.fourth) == ("b", [1], "x")
    assert one.third is not Many("a", 2).third
    assert type(one) is Many
    assert one == Many("a", second=2) != two
    assert dataclasses.replace(one, second=4).seventh == 9
    assert pickle.loads(pickle.dumps(two)) == copy.copy(two) == two


def test_a_frozen_one_of_several_fields_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Many("a", 2).second = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(Many("a", 2), "second")
    with pytest.raises(ValueError, match="a has -1"):
        Many("a", -1)


def test_a_wrong_call_of_several_arguments_names_them() -> None:
    with pytest.raises(TypeError, match=r"Many\.__init__\(\) missing 1 required positional argument: 'second'"):
        Many("a")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match=r"Many\.__init__\(\) got an unexpected keyword argument 'other'"):
        Many("a", 1, other=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_forms_that_are_not_the_houses_are_the_standard_librarys() -> None:
    @dataclass(frozen=True, slots=True, order=True)
    class Ordered:
        number: int

    assert written(Ordered)
    assert Ordered(1) < Ordered(2)


def test_a_class_of_a_class_has_the_fields_of_both() -> None:
    @dataclass(frozen=True, slots=True)
    class Triple(Pair[int]):
        third: int = 3

    assert Triple(1, 2) == Triple(1, 2, 3) != Triple(1, 2, 4)
    assert Triple.__dataclass_params__.frozen  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


def test_a_class_variable_among_the_fields_is_refused_and_not_lost() -> None:
    with pytest.raises(TypeError, match="needs the standard library's dataclass"):

        @dataclass(slots=True)
        class _Mixed:
            number: int
            shared: ClassVar[int] = 1


def test_every_value_of_the_program_is_defined_this_way() -> None:
    """But for the data path's innermost modules, which may be compiled, and define a handful."""
    root = Path(hbone.__file__).parent
    by_hand = {"poller.py", "h2link.py", "linkwriter.py", "relay.py", "splice.py", "values.py"}
    found = [
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        if path.name not in by_hand
        and re.search(r"^from dataclasses import .*\bdataclass\b", path.read_text(), re.MULTILINE)
    ]
    assert found == []
