"""What commands take on their lines."""

import click
import pytest

from hbone.cli.arguments import EXPOSE_PORT


@pytest.mark.parametrize(
    ("text", "mesh_port", "local"),
    [
        ("8080", 8080, "127.0.0.1:8080"),
        ("80:8080", 80, "127.0.0.1:8080"),
        ("127.0.0.2:9", 9, "127.0.0.2:9"),
        ("localhost:9", 9, "127.0.0.1:9"),
        ("[::1]:9", 9, "[::1]:9"),
        ("80:127.0.0.2:9", 80, "127.0.0.2:9"),
        ("80:localhost:9", 80, "127.0.0.1:9"),
        ("80:[::1]:9", 80, "[::1]:9"),
    ],
)
def test_every_form_of_a_port_to_expose_that_the_help_names_is_taken(text: str, mesh_port: int, local: str) -> None:
    found = EXPOSE_PORT.convert(text, None, None)
    assert (found[0], str(found[1])) == (mesh_port, local)


@pytest.mark.parametrize("text", ["", "0", "0:5", "80:", ":80", "99999", "80:99999", "abc", "a:b:c", "::1:5"])
def test_what_is_no_port_to_expose_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(click.BadParameter, match=r"the form is \[MESHPORT:\]\[ADDR:\]PORT"):
        EXPOSE_PORT.convert(text, None, None)
