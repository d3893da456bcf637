"""From a command's options to settings: files read, flags named as the user typed them."""

from collections.abc import Mapping
from pathlib import Path

from hbone.app.sources import read_text
from hbone.config.load import Flag, SettingsFile

_PLACES = {
    "inbound": "listeners.inbound",
    "socks": "listeners.socks",
    "admin": "listeners.admin",
    "access_log": "logging.access_log",
    "log_level": "logging.log_level",
}


def settings_file(path: Path | None) -> SettingsFile | None:
    """The settings file that an option names; raises InvalidConfiguration when it cannot be read."""
    return None if path is None else SettingsFile(name=str(path), text=read_text(path))


def node_flags(given: Mapping[str, object], *, spelling: Mapping[str, str] | None = None) -> tuple[Flag, ...]:
    """Options that were given, by setting; `spelling` where the option is called otherwise."""
    called = spelling or {}
    return tuple(
        Flag(path=_PLACES.get(name, name), flag=called.get(name, f"--{name.replace('_', '-')}"), value=_plain(value))
        for name, value in given.items()
        if value is not None
    )


control_flags = node_flags


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
