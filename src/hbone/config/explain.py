"""pydantic's findings in our words: what is wrong with a value and what to write instead."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final, get_args

from pydantic_core import ErrorDetails

from hbone.config.catalogue import section_of, settings_of
from hbone.config.fields import Settings
from hbone.config.tree import Path, dotted
from hbone.errors import Problem

_SHOWN_CHARS: Final = 80
_BOUNDS: Final = {
    "greater_than": ("gt", "too small", "write more than {}"),
    "greater_than_equal": ("ge", "too small", "write {} or more"),
    "less_than": ("lt", "too large", "write less than {}"),
    "less_than_equal": ("le", "too large", "write {} or less"),
}
_KINDS: Final = (
    ("string", "not text", "put it in quotes"),
    ("bool", "not true or false", "write true or false"),
    ("int", "not a whole number", "write a whole number"),
    ("float", "not a number", "write a number"),
    ("path", "not a path", "write a path"),
    ("model", "not a section", "write its settings below it, indented, one a line"),
    ("dict", "not a section", "write its settings below it, indented, one a line"),
    ("tuple", "not a list", "write one item a line, each after '- '"),
    ("list", "not a list", "write one item a line, each after '- '"),
)


def problem_of(detail: ErrorDetails, model: type[Settings]) -> Problem:
    """One finding about settings of `model`; the field is set, file and line are not."""
    kind, path, context = detail["type"], detail["loc"], detail.get("ctx", {})
    what, fix = _words(kind, path, context, detail["input"], model)
    return Problem(what=what or detail["msg"], fix=fix, field=dotted(path))


def _words(kind: str, path: Path, context: Mapping[str, Any], value: object, model: type[Settings]) -> tuple[str, str]:
    shown = _shown(value)
    if kind == "hbone":
        return str(context["what"]), str(context["fix"])
    if kind == "extra_forbidden":
        return "no such setting", _nearest(path, model)
    if kind == "missing":
        return "missing", f"add {path[-1]}: {_meaning(path, model)}"
    if kind == "literal_error":
        return f"{shown} is not a choice here", f"write {context['expected']}"
    if kind in _BOUNDS:
        key, what, fix = _BOUNDS[kind]
        return f"{shown} is {what}", fix.format(f"{context[key]:g}")
    for prefix, what, fix in _KINDS:
        if kind.startswith(prefix):
            return f"{shown} is {what}", fix
    return "", "see `hbone schema node`"


def _shown(value: object) -> str:
    """The value as it may be quoted in one line; a section is shown by its kind alone."""
    if isinstance(value, dict | list):
        return "a section" if isinstance(value, dict) else "a list"
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"


def _nearest(path: Path, model: type[Settings]) -> str:
    """What the operator probably meant by an unknown name at `path`."""
    name = str(path[-1])
    owner = _model_at(path[:-1], model)
    here = [info.alias or known for known, info in owner.model_fields.items()] if owner else []
    elsewhere = {setting.name: setting.dotted for setting in settings_of(model)}
    if name in elsewhere:
        return f"write it as {elsewhere[name]}"
    near = get_close_matches(name, here, n=1, cutoff=0.6)
    if near:
        return f"write {near[0]}"
    near = get_close_matches(name, elsewhere, n=1, cutoff=0.75)
    if near:
        return f"write {elsewhere[near[0]]}"
    return f"remove it; known here are {', '.join(here)}"


def _model_at(path: Path, model: type[Settings]) -> type[Settings] | None:
    """The model that describes what is at `path`."""
    found: type[Settings] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        info = found.model_fields.get(part) if found else None
        if info is None:
            return None
        found = section_of(info) or _item_model(info.annotation)
    return found


def _item_model(annotation: object) -> type[Settings] | None:
    """Item of a `tuple[X, ...]`."""
    for item in get_args(annotation):
        if isinstance(item, type) and issubclass(item, Settings):
            return item
    return None


def _meaning(path: Path, model: type[Settings]) -> str:
    owner = _model_at(path[:-1], model)
    if owner is not None:
        for name, info in owner.model_fields.items():
            if path[-1] in {name, info.alias}:
                return info.description or ""
    return ""
