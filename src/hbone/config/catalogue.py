"""All settings of a model in one flat list: what loading, `--print-config`, schema, reload and the docs walk over."""

from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast, get_args

from pydantic.fields import FieldInfo

from hbone.config.fields import Applies, Settings
from hbone.values import dataclass

ENV_PREFIX: Final = "HBONE_"


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingField:
    """One setting. `path` leads to it from the top; `env` are its variables, the strongest first; `default` is its
    finished value."""

    path: tuple[str, ...]
    meaning: str
    applies: Applies
    env: tuple[str, ...]
    default: object
    is_path: bool = False
    is_list: bool = False

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def dotted(self) -> str:
        return ".".join(self.path)


@lru_cache(maxsize=16)
def settings_of(model: type[Settings]) -> tuple[SettingField, ...]:
    """Every setting of `model`, sections opened up, in the order of declaration."""
    return tuple(_walk(model, ()))


def section_of(field: FieldInfo) -> type[Settings] | None:
    """The model of a field that is a section, None for a setting."""
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Settings) else None


def _walk(model: type[Settings], above: tuple[str, ...]) -> list[SettingField]:
    found: list[SettingField] = []
    for name, info in model.model_fields.items():
        section = section_of(info)
        if section is not None:
            found.extend(_walk(section, (*above, name)))
            continue
        extra = cast("dict[str, Any]", info.json_schema_extra)
        found.append(
            SettingField(
                path=(*above, name),
                meaning=info.description or "",
                applies=Applies(extra["x-applies"]),
                env=(ENV_PREFIX + name.upper(), *extra.get("x-ztunnel-env", ())),
                default=info.get_default(call_default_factory=True, validated_data={}),
                is_path=info.annotation is Path or Path in get_args(info.annotation),
                is_list=isinstance(info.default, tuple),
            )
        )
    return found
