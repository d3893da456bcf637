"""From a command's options to settings: files read, flags named as the user typed them."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hbone.app.options import ListenerFailed
from hbone.app.reread import ControlFile
from hbone.app.sources import read_text
from hbone.config.catalogue import ENV_PREFIX
from hbone.config.load import Flag, Loaded, Origin, OriginKind, SettingsFile
from hbone.config.model import ControlSettings
from hbone.errors import InvalidConfiguration, Problem

_FLAGS = ("inbound", "socks")  # of both `hbone up` and `hbone node`
_PLACES = {
    "inbound": "listeners.inbound",
    "socks": "listeners.socks",
    "admin": "listeners.admin",
    "listen": "listeners.control_tls",
    "control_listen": "listeners.control_tls",
    "access_log": "logging.access_log",
    "log_level": "logging.log_level",
}


def settings_file(path: Path | None) -> SettingsFile | None:
    """The settings file that an option names; raises InvalidConfiguration when it cannot be read."""
    return None if path is None else SettingsFile(name=str(path), text=read_text(path))


def control_file(path: Path | None, load: Callable[[], Loaded[ControlSettings]]) -> ControlFile | None:
    """A control plane's settings file to be followed: none for what can be read once only, a pipe for one."""
    return ControlFile(path=path, load=load) if path is not None and path.is_file() else None


def node_flags(given: Mapping[str, object], *, spelling: Mapping[str, str] | None = None) -> tuple[Flag, ...]:
    """Options that were given, by setting; `spelling` where the option is called otherwise."""
    called = spelling or {}
    return tuple(
        Flag(path=_PLACES.get(name, name), flag=called.get(name, f"--{name.replace('_', '-')}"), value=_plain(value))
        for name, value in given.items()
        if value is not None
    )


control_flags = node_flags


@contextmanager
def placed(loaded: Loaded[Any]) -> Generator[None]:
    """A listener that cannot have its place is told with where that place was set, like any other mistake."""
    try:
        yield
    except ListenerFailed as error:
        raise InvalidConfiguration([_problem(error, loaded.origin(error.setting.partition("[")[0]))]) from error


def _problem(error: ListenerFailed, origin: Origin) -> Problem:
    what = f"{error.what}: {error.why.lower()}" if error.why else error.what
    match origin.kind:
        case OriginKind.FILE:
            file, _, line = origin.where.rpartition(":")
            return Problem(what=what, fix=error.fix, field=error.setting, file=file, line=int(line))
        case OriginKind.ENVIRONMENT | OriginKind.FLAG:
            return Problem(what=what, fix=error.fix, field=origin.where)
        case OriginKind.DEFAULT:
            name = error.setting.rpartition(".")[2]
            how = f"--{name} ADDR:PORT" if name in _FLAGS else f"{ENV_PREFIX}{name.upper()}=ADDR:PORT"
            return Problem(what=what, fix=f"{error.fix}: {how}", field=error.setting)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
