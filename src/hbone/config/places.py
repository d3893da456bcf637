"""Where things are kept on this machine when nobody says otherwise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

STATE_DIR_VARIABLE: Final = "HBONE_STATE_DIR"
SOCKET_VARIABLE: Final = "HBONE_SOCKET"
CONTROL_SOCKET: Final = "control.sock"
ROOT_STATE_DIR: Final = Path("/var/lib/hbone")


def state_dir(environment: Mapping[str, str], *, uid: int, given: Path | None = None) -> Path:
    """`given`, $HBONE_STATE_DIR, /var/lib/hbone for root, else $XDG_STATE_HOME/hbone (~/.local/state/hbone).

    Without a home (containers): directly in /tmp, whose sticky bit keeps others from putting theirs in its place.
    """
    if given is not None:
        return given
    if chosen := environment.get(STATE_DIR_VARIABLE):
        return Path(chosen)
    if uid == 0:
        return ROOT_STATE_DIR
    base = environment.get("XDG_STATE_HOME", "")
    if base.startswith("/"):  # the XDG rule: a relative path there is to be ignored
        return Path(base) / "hbone"
    home = environment.get("HOME")
    return Path(home) / ".local/state/hbone" if home else Path(f"/tmp/hbone-{uid}")  # noqa: S108


def control_socket(environment: Mapping[str, str], directory: Path) -> Path:
    """The Unix socket of a running `hbone up` with this state directory: $HBONE_SOCKET, else in the directory."""
    chosen = environment.get(SOCKET_VARIABLE)
    return Path(chosen) if chosen else directory / CONTROL_SOCKET
