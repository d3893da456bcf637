"""Where state is kept when nobody says otherwise."""

from pathlib import Path

import pytest

from hbone.config.places import control_socket, state_dir


@pytest.mark.parametrize(
    ("environment", "uid", "expected"),
    [
        ({"HOME": "/home/ann"}, 1000, "/home/ann/.local/state/hbone"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "/s"}, 1000, "/s/hbone"),
        ({"HOME": "/home/ann", "XDG_STATE_HOME": "relative"}, 1000, "/home/ann/.local/state/hbone"),
        ({"HOME": "/root", "XDG_STATE_HOME": "/s"}, 0, "/var/lib/hbone"),
        ({"HBONE_STATE_DIR": "/x"}, 0, "/x"),
        ({}, 1000, "/tmp/hbone-1000"),
    ],
)
def test_the_state_directory_follows_the_xdg_rules(environment: dict[str, str], uid: int, expected: str) -> None:
    assert state_dir(environment, uid=uid) == Path(expected)


def test_a_given_directory_wins_and_the_socket_is_inside() -> None:
    chosen = state_dir({"HBONE_STATE_DIR": "/x"}, uid=0, given=Path("/y"))
    assert control_socket({}, chosen) == Path("/y/control.sock")


def test_a_socket_somewhere_else_is_found_by_all_who_have_the_variable_that_put_it_there() -> None:
    assert control_socket({"HBONE_SOCKET": "/run/hbone.sock"}, Path("/y")) == Path("/run/hbone.sock")
