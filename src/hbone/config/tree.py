"""A YAML settings file as plain values, with the line of every key and item."""

from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.constructor import SafeConstructor

from hbone.errors import Problem

Path = tuple[str | int, ...]
MAX_FILE_CHARS: Final = 1 << 20
MAX_NODES: Final = 20_000  # aliases multiply: nine lines can stand for a billion items


@dataclass(slots=True, kw_only=True)
class Tree:
    """`values` by key; `lines` (from 1) by path; what was wrong on the way."""

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, path: Path) -> int | None:
        """The line of `path`, or of the nearest thing above it that is written down."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[:-1]
        return None


def read_tree(text: str, file: str) -> Tree:
    """One document, a mapping; empty text is an empty mapping. Never raises: mistakes are in `problems`."""
    tree = Tree()
    if len(text) > MAX_FILE_CHARS:
        tree.problems.append(Problem(what="larger than 1 MiB", fix="this is no settings file", file=file))
        return tree
    try:
        root = yaml.compose(text, Loader=yaml.CSafeLoader)
        if root is None:
            return tree
        if not isinstance(root, yaml.MappingNode):
            line = root.start_mark.line + 1
            fix = "write settings as KEY: VALUE, one a line"
            tree.problems.append(Problem(what="not a mapping of settings", fix=fix, file=file, line=line))
            return tree
        tree.values = _Walk(tree, file).mapping(root, ())
    except yaml.YAMLError as error:
        tree.problems.append(_syntax(error, file))
    except _TooMany:
        tree.problems.append(Problem(what=f"more than {MAX_NODES} values", fix="this is no settings file", file=file))
    return tree


class _TooMany(Exception):
    pass


class _Walk:
    def __init__(self, tree: Tree, file: str) -> None:
        self._tree = tree
        self._file = file
        self._nodes = 0
        self._scalars = SafeConstructor()

    def mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            # What a key is called counts, not what YAML takes it for: `off: 1` and `5: 1` are unknown names.
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
            line = key_node.start_mark.line + 1
            place = (*path, key)
            if key in values:
                first = self._tree.lines[place]
                problem = Problem(
                    what=f"{key!r} is given twice, first in line {first}",
                    fix="keep one of them",
                    field=dotted(place),
                    file=self._file,
                    line=line,
                )
                self._tree.problems.append(problem)
                continue
            self._tree.lines[place] = line
            values[key] = self._value(value_node, place)
        return values

    def _value(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > 20:
            raise _TooMany
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            items: list[Any] = []
            for index, item in enumerate(node.value):
                place = (*path, index)
                self._tree.lines[place] = item.start_mark.line + 1
                items.append(self._value(item, place))
            return items
        try:
            return self._scalars.construct_object(node)  # pyright: ignore[reportUnknownMemberType]  # types-PyYAML
        except ValueError:  # a date such as 2026-13-45, a number such as 0b12
            return str(node.value)


def dotted(path: Path) -> str:
    """`forwards[0].listen`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _syntax(error: yaml.YAMLError, file: str) -> Problem:
    line = None
    what = "not YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        detail = ", ".join(part for part in (error.context, error.problem) if part)
        what = f"not YAML: {detail}" if detail else what
    elif isinstance(error, yaml.reader.ReaderError):
        what = f"not YAML: {error.reason}"
    return Problem(what=what, fix="check indentation, colons and quotes here", file=file, line=line)
