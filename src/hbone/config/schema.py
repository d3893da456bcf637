"""JSON Schema of a settings file, for editors and for checks elsewhere."""

from typing import Any, Final, cast

from hbone.config.catalogue import section_of, settings_of
from hbone.config.fields import Settings
from hbone.config.model import ControlSettings, NodeSettings

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
MODELS: Final[dict[str, type[Settings]]] = {"node": NodeSettings, "control": ControlSettings}
_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


def json_schema(model: type[Settings]) -> dict[str, Any]:
    """The schema of what may be written in a file. Each setting also names its environment variables."""
    schema = cast("dict[str, Any]", _with_bounds(model.model_json_schema()))
    _write_defaults(schema, schema["$defs"], model())
    return {"$schema": DIALECT, **schema, "x-environment": environment_of(model)}


def environment_of(model: type[Settings]) -> dict[str, list[str]]:
    """Variables of each setting, by dotted path, the strongest first."""
    return {setting.dotted: list(setting.env) for setting in settings_of(model)}


def _write_defaults(schema: dict[str, Any], definitions: dict[str, Any], settings: Settings) -> None:
    """Defaults as they would be written, not as Python holds them."""
    dumped = settings.model_dump(mode="json")
    for name, info in type(settings).model_fields.items():
        section = section_of(info)
        if section is None:
            schema["properties"][name]["default"] = dumped[name]
        else:
            schema["properties"][name].pop("default", None)
            _write_defaults(definitions[section.__name__], definitions, getattr(settings, name))


def _with_bounds(schema: Any) -> Any:
    """Bounds that pydantic leaves under their Python names, beside a schema of our own, under their JSON ones."""
    if isinstance(schema, dict):
        mapping = cast("dict[str, Any]", schema)
        return {_BOUNDS.get(key, key): _with_bounds(value) for key, value in mapping.items()}
    if isinstance(schema, list):
        return [_with_bounds(item) for item in schema]  # pyright: ignore[reportUnknownVariableType]  # JSON has no types
    return schema
