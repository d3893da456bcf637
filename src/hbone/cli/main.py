"""The command line: a click group whose commands are imported only when they run.

The table below holds each command's name, place and one line of help, so that `hbone --help` and completion import
nothing but click.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import click
from click.shell_completion import CompletionItem

from hbone import __version__, native
from hbone.cli.plugins import without_plugins
from hbone.values import dataclass

START, RUN, LOOK, IDENTITIES = "Start here", "Run", "Look", "Identities"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: where it is ("module:attribute" below hbone.cli.commands), its section of the help, its line."""

    place: str
    section: str
    help: str

    @property
    def module(self) -> str:
        return f"hbone.cli.commands.{self.place.partition(':')[0]}"

    def load(self) -> click.Command:
        without_plugins()
        command = getattr(import_module(self.module), self.place.partition(":")[2])
        assert isinstance(command, click.Command)  # noqa: S101  # a test loads every entry
        return command


COMMANDS: Final[dict[str, Entry]] = {
    "demo": Entry("demo:demo", START, "See it work: two nodes, real traffic, a denial, a rotation."),
    "up": Entry("up:up", START, "One machine, one command: control plane and node together."),
    "doctor": Entry("doctor:doctor", START, "What on this machine would keep hbone from working, and the fix."),
    "node": Entry("node:node", RUN, "The node proxy alone."),
    "control": Entry("control:control", RUN, "The control plane alone: identities and the mesh for other machines."),
    "join": Entry("join:join", RUN, "Make this machine part of a mesh, by a token."),
    "forward": Entry("forward:forward", RUN, "A local port that leads to a mesh destination."),
    "expose": Entry("expose:expose", RUN, "Let the mesh reach a local port under an identity."),
    "get": Entry("get:get", LOOK, "What a running node holds: workloads, services, connections."),
    "policy": Entry("policy:policy", LOOK, "Who may talk to whom: check, explain, test, compare, suggest."),
    "schema": Entry("schema:schema", LOOK, "JSON Schema of a settings file."),
    "bench": Entry("bench:bench", LOOK, "Measure hbone beside Envoy, and both beside no proxy."),
    "completion": Entry("completion:completion", LOOK, "The script that completes hbone in your shell."),
    "token": Entry("token:token", IDENTITIES, "Join tokens: create, list and revoke them."),
    "cert": Entry("cert:cert", IDENTITIES, "Issue, show, verify, list and revoke certificates."),
    "ca": Entry("ca:ca", IDENTITIES, "The certificate authority: status, rotation, bundles, audit log."),
    "bundle": Entry("bundle:bundle", IDENTITIES, "Show trust bundles."),
}

EXAMPLES: Final = (
    ("hbone demo", "all of it, in 20 seconds"),
    ("hbone up ./mesh", "a mesh from manifests"),
    ("hbone expose --as shop/cart 8080", "a local port into the mesh"),
    ("hbone forward --as shop/web 9000:cart.shop:80", "a local port that leads there"),
    ("hbone get connections", "what is carried now"),
)


def available() -> Iterator[tuple[str, Entry]]:
    """The commands whose module is installed: one that is still being written is not shown."""
    for name, entry in COMMANDS.items():
        if find_spec(entry.module) is not None:
            yield name, entry


class LazyGroup(click.Group):
    """Loads a command's module when the command itself is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, _ in available()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        return entry.load() if entry is not None and find_spec(entry.module) is not None else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            from difflib import get_close_matches

            near = get_close_matches(name, self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"there is no command {name!r}{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names and help from the table; click's own would import every command."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(name, help=entry.help) for name, entry in available() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in COMMANDS)
        for section in (START, RUN, LOOK, IDENTITIES):
            rows = [(name.ljust(width), entry.help) for name, entry in available() if entry.section == section]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        names = {name for name, _ in available()}
        shown = [(line, what) for line, what in EXAMPLES if line.split()[1] in names]
        with formatter.section("Examples"):
            formatter.write_dl(shown, col_max=52)
        formatter.write_paragraph()
        formatter.write_text("`hbone COMMAND --help` tells all about one command.")


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    subcommand_metavar="COMMAND …",
)
@click.version_option(__version__, "-V", "--version", message=f"hbone %(version)s{native.remark()}")
def cli() -> None:
    """Identities and mutually authenticated, encrypted tunnels for every program on a network."""
