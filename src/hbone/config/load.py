"""Settings from a file, the environment and flags, in this order of rising precedence, above the defaults.

Reading knows where each value came from, so that every mistake is reported with its place, all of them at once,
and `--print-config` can say why a setting is what it is.
"""

from collections.abc import Mapping
from dataclasses import field
from enum import Enum
from pathlib import PurePath
from typing import Any, Generic, TypeVar, cast

from pydantic import ValidationError

from hbone.config.catalogue import SettingField, settings_of
from hbone.config.check import check_control, check_node
from hbone.config.environment import mistakes, settings_from, without_effect
from hbone.config.explain import problem_of
from hbone.config.fields import Settings
from hbone.config.model import ControlSettings, NodeSettings
from hbone.config.tree import Path, Tree, read_tree
from hbone.errors import InvalidConfiguration, Problem
from hbone.values import dataclass

S = TypeVar("S", bound=Settings)


class OriginKind(Enum):
    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; `where` is `node.yaml:12`, `$HBONE_SOCKS`, `--socks`, empty for a default."""

    kind: OriginKind
    where: str = ""

    def __str__(self) -> str:
        return self.where or "default"


DEFAULT = Origin(OriginKind.DEFAULT)


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsFile:
    """A file's name, as the operator wrote it, and its text. Relative paths inside are relative to its directory."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """A value from the command line: `path` as in the file ("listeners.socks"), `flag` as typed ("--socks")."""

    path: str
    flag: str
    value: object


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded(Generic[S]):
    """Settings, where each given one came from (by dotted path), and variables that had no effect."""

    settings: S
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin])
    without_effect: tuple[str, ...] = ()

    def origin(self, dotted: str) -> Origin:
        return self.origins.get(dotted, DEFAULT)


def load_node(
    file: SettingsFile | None = None, environment: Mapping[str, str] | None = None, flags: tuple[Flag, ...] = ()
) -> Loaded[NodeSettings]:
    """Settings of a node; raises InvalidConfiguration with everything that is wrong."""
    return _load(_Given(NodeSettings, file, environment or {}, flags))


def load_control(
    file: SettingsFile | None = None, environment: Mapping[str, str] | None = None, flags: tuple[Flag, ...] = ()
) -> Loaded[ControlSettings]:
    """Settings of a control plane; raises InvalidConfiguration with everything that is wrong."""
    return _load(_Given(ControlSettings, file, environment or {}, flags))


@dataclass(slots=True)
class _Given(Generic[S]):
    """The sources, laid over one another while they are read."""

    model: type[S]
    file: SettingsFile | None
    environment: Mapping[str, str]
    flags: tuple[Flag, ...]
    tree: Tree = field(default_factory=Tree)
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    origins: dict[str, Origin] = field(default_factory=dict[str, Origin])
    problems: list[Problem] = field(default_factory=list[Problem])

    def locate(self, path: Path, problem: Problem) -> Problem:
        """`problem` with the place that `path` was written at."""
        for end in range(len(path), 0, -1):
            origin = self.origins.get(".".join(str(part) for part in path[:end]))
            if origin is not None and origin.kind in {OriginKind.ENVIRONMENT, OriginKind.FLAG}:
                return Problem(what=problem.what, fix=problem.fix, field=origin.where)
        if self.file is None:
            return problem
        line = self.tree.line(path)
        return Problem(what=problem.what, fix=problem.fix, field=problem.field, file=self.file.name, line=line)


def _load(given: _Given[S]) -> Loaded[S]:
    _read_file(given)
    if given.problems and not given.values:  # not YAML at all: whatever else could be said follows from that
        raise InvalidConfiguration(given.problems)
    _read_environment(given)
    for flag in given.flags:
        _put(given.values, tuple(flag.path.split(".")), flag.value)
        given.origins[flag.path] = Origin(OriginKind.FLAG, flag.flag)
    settings = _validate(given)
    if settings is None or given.problems:
        raise InvalidConfiguration(sorted(given.problems, key=lambda problem: (problem.file or "", problem.line or 0)))
    return Loaded(settings=settings, origins=given.origins, without_effect=without_effect(given.environment))


def _read_file(given: _Given[S]) -> None:
    if given.file is None:
        return
    given.tree = read_tree(given.file.text, given.file.name)
    given.problems.extend(given.tree.problems)
    given.values = given.tree.values
    directory = PurePath(given.file.name).parent
    for setting in settings_of(given.model):
        value = _get(given.values, setting.path)
        if value is None:
            continue
        line = given.tree.line(setting.path)
        given.origins[setting.dotted] = Origin(OriginKind.FILE, f"{given.file.name}:{line}")
        if setting.is_path and isinstance(value, str) and value:
            _put(given.values, setting.path, str(directory / value))


def _read_environment(given: _Given[S]) -> None:
    given.problems.extend(mistakes(given.environment, (NodeSettings, ControlSettings)))

    def in_file(setting: SettingField) -> object:
        return _get(given.values, setting.path)

    for found in settings_from(given.environment, given.model, in_file):
        value: object = found.text
        if found.field.is_list:
            inner = read_tree(f"list: {found.text}", found.variable)
            if inner.problems:
                fix = "write a list as in the file: [{...}, {...}]"
                given.problems.append(Problem(what="not a list", fix=fix, field=f"${found.variable}"))
                continue
            value = inner.values.get("list")
        _put(given.values, found.field.path, value)
        given.origins[found.field.dotted] = Origin(OriginKind.ENVIRONMENT, f"${found.variable}")


def _validate(given: _Given[S]) -> S | None:
    """The settings, or None after problems were added."""
    try:
        settings = given.model.model_validate(given.values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            given.problems.append(given.locate(detail["loc"], problem_of(detail, given.model)))
        return None
    match settings:
        case NodeSettings():
            found = check_node(settings)
        case ControlSettings():
            found = check_control(settings)
        case _:
            found = ()
    given.problems.extend(given.locate(_path_of(problem.field), problem) for problem in found)
    return settings


def _path_of(dotted: str) -> Path:
    parts: list[str | int] = []
    for part in dotted.split("."):
        name, _, index = part.rstrip("]").partition("[")
        parts.append(name)
        if index:
            parts.append(int(index))
    return tuple(parts)


def _get(values: Mapping[str, Any], path: tuple[str, ...]) -> object:
    """What is written at `path`, None when nothing is."""
    value: object = values
    for name in path:
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, object]", value).get(name)
    return value


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    """Lay `value` over what is at `path`. A section that is no mapping stays, to be reported."""
    for name in path[:-1]:
        below = values.get(name)
        if below is None:
            below = values[name] = {}
        if not isinstance(below, dict):
            return
        values = cast("dict[str, Any]", below)
    values[path[-1]] = value
