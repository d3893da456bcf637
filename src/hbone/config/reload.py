"""What differs between two settings, and what each difference takes to apply."""

from hbone.config.catalogue import SettingField, settings_of
from hbone.config.fields import Applies, Settings
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One setting that is not what it was."""

    field: SettingField
    old: object
    new: object

    @property
    def applies(self) -> Applies:
        return self.field.applies


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """Every setting that differs, in the order of declaration. Both must be of one model."""
    found: list[Change] = []
    for field in settings_of(type(new)):
        before, after = value_at(old, field), value_at(new, field)
        if before != after:
            found.append(Change(field=field, old=before, new=after))
    return tuple(found)


def not_live(found: tuple[Change, ...]) -> tuple[Change, ...]:
    """Those that a process cannot take while it runs."""
    return tuple(change for change in found if change.applies is not Applies.LIVE)


def strongest(found: tuple[Change, ...]) -> Applies:
    """What it takes to apply them all."""
    kinds = {change.applies for change in found}
    return next((kind for kind in (Applies.RESTART, Applies.DRAIN) if kind in kinds), Applies.LIVE)


def value_at(settings: Settings, field: SettingField) -> object:
    """The value of one setting."""
    value: object = settings
    for name in field.path:
        value = getattr(value, name)
    return value
