"""`hbone completion`: the script that completes hbone in a shell."""

from typing import Final

import click
from click.shell_completion import get_completion_class

from hbone.cli.failures import COMPLETE_VARIABLE

PLACES: Final = {
    "bash": "hbone completion bash > ~/.local/share/bash-completion/completions/hbone",
    "zsh": "hbone completion zsh > ~/.zfunc/_hbone    (with fpath+=~/.zfunc before compinit)",
    "fish": "hbone completion fish > ~/.config/fish/completions/hbone.fish",
}


@click.command(
    epilog="\b\nWhere it goes:\n" + "\n".join(f"  {line}" for line in PLACES.values()),
)
@click.argument("shell", type=click.Choice(list(PLACES)), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes hbone's commands and options in a shell."""
    found = get_completion_class(shell)
    assert found is not None  # noqa: S101  # click has these three
    # source() alone: click's complete for bash would start bash to look at its version.
    click.echo(found(context.find_root().command, {}, "hbone", COMPLETE_VARIABLE).source())
