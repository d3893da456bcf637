"""The command line's table and help."""

import subprocess
import sys
from importlib.util import find_spec

import click
import pytest
from click.testing import CliRunner

from hbone.cli import main
from hbone.cli.failures import main as run

HEAVY = {"asyncio", "pydantic", "yaml", "OpenSSL", "cryptography", "grpclib", "google", "rich", "h11", "uvloop"}


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a command loads."""
    code = (
        f"import sys; sys.argv=['hbone', *{arguments!r}]\n"
        "from hbone.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('LOADED', *{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED ")[2].split())


def help_text() -> str:
    return CliRunner().invoke(main.cli, ["--help"]).output


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["nod"], ["completion", "bash"]], ids=" ".join)
def test_help_and_mistakes_load_no_heavy_package(arguments: list[str]) -> None:
    assert not HEAVY & imported_by(*arguments)


def test_the_version_does_not_even_load_click() -> None:
    assert "click" not in imported_by("--version")


def test_the_collector_does_not_look_at_what_is_only_being_imported() -> None:
    code = (
        "import gc, sys; before = gc.get_stats()[0]['collections']; sys.argv=['hbone', 'node', '--print-config']\n"
        "from hbone.__main__ import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('COLLECTIONS', gc.get_stats()[0]['collections'] - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.rpartition("COLLECTIONS ")[2]) <= 20, "with Python's own threshold there are 120"


@pytest.mark.parametrize("name", [name for name, _ in main.available()])
def test_every_listed_command_can_be_loaded_and_explains_itself(name: str) -> None:
    command = main.COMMANDS[name].load()
    assert isinstance(command, click.Command)
    assert command.help
    assert CliRunner().invoke(main.cli, [name, "--help"]).exit_code == 0


def test_a_command_is_listed_exactly_when_it_is_installed() -> None:
    text = help_text()
    for name, entry in main.COMMANDS.items():
        assert (f"\n  {name} " in text) == (find_spec(entry.module) is not None), name


def test_commands_stand_in_groups_from_the_first_step_on_with_examples_at_the_bottom() -> None:
    text = help_text()
    places = [
        text.index(heading)
        for heading in ("Start here:", "  demo ", "Look:", "  doctor ", "Examples:")
        if heading in text
    ]
    assert text.index("Start here:") < text.index("Look:") < text.index("Examples:")
    assert places


def test_examples_are_of_commands_that_exist() -> None:
    assert {line.split()[1] for line, _ in main.EXAMPLES} <= set(main.COMMANDS)


def test_a_mistyped_command_is_told_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["docter"]) == 2
    assert "there is no command 'docter'; did you mean doctor?" in capsys.readouterr().err


def test_a_command_like_no_other_is_told_where_to_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["xyzzy"]) == 2
    error = capsys.readouterr().err
    assert "there is no command 'xyzzy'\n" in error
    assert "hbone --help" in error


def test_completion_offers_names_with_their_help_from_the_table() -> None:
    context = click.Context(main.cli)
    items = main.cli.shell_complete(context, "do")
    assert [(item.value, item.help) for item in items] == [("doctor", main.COMMANDS["doctor"].help)]
    assert "--version" in [item.value for item in main.cli.shell_complete(context, "--v")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed_for_each_shell(shell: str) -> None:
    result = CliRunner().invoke(main.cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_HBONE_COMPLETE" in result.output
