"""Options of commands that make one program part of a mesh: by the running `hbone up`, or by a CA directory."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from hbone.cli.arguments import PATH
from hbone.values import dataclass

if TYPE_CHECKING:
    from hbone.app.place import Place
    from hbone.app.programs import Membership
    from hbone.config.refs import AccountRef
    from hbone.telemetry.log import Logs

_F = TypeVar("_F", bound=Callable[..., int])


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The options as given."""

    account: "AccountRef"
    ca: Path | None
    manifests: Path | None
    trust_domain: str
    state_dir: Path | None
    access_log: str

    def membership(self) -> "Membership":
        """Raises UsageError when the options do not go together."""
        from hbone.app.programs import Membership
        from hbone.errors import UsageError

        if self.ca is None:
            for option, who_tells in _ALONE.items():
                if given(option):
                    flag = f"--{option.replace('_', '-')}"
                    raise UsageError(f"{flag} without --ca", fix=f"leave it out: the running `hbone up` {who_tells}")
        settings: dict[str, Any] = {"manifests": self.manifests} if self.manifests is not None else {}
        return Membership(account=self.account, ca=self.ca, trust_domain=self.trust_domain, settings=settings)

    def place(self, environment: dict[str, str]) -> "Place":
        from hbone.app.place import Place

        return Place(environment=environment, state_dir=self.state_dir)

    @contextmanager
    def logs(self) -> "Generator[Logs]":
        from hbone.config.sections import Logging
        from hbone.telemetry.log import Logs

        logs = Logs(Logging.model_validate({"access_log": self.access_log, "log_level": "warn,access=info"}))
        try:
            yield logs
        finally:
            logs.close()

    @staticmethod
    def say(lines: list[str]) -> None:
        for line in lines:
            click.echo(line, err=True)


_ALONE = {
    "manifests": "tells the mesh",
    "trust_domain": "knows its trust domain",
    "listen": "gives each workload an address for its tunnels",
}
"""Parameters that mean something with --ca alone, and who tells it otherwise."""


def given(parameter: str) -> bool:
    """Whether the user chose this parameter of the running command."""
    return click.get_current_context().get_parameter_source(parameter) is ParameterSource.COMMANDLINE


_OPTIONS = (
    click.option("--ca", type=PATH, help="Stand alone: identities from this CA directory."),
    click.option("--manifests", type=PATH, help="With --ca: the directory that tells the mesh."),
    click.option("--trust-domain", default="cluster.local", show_default=True, help="With --ca: its trust domain."),
    click.option("--state-dir", type=PATH, help="State directory of the running `hbone up`."),
    click.option(
        "--access-log",
        type=click.Choice(["text", "json", "off"]),
        default="text",
        show_default=True,
        help="One line for each connection, on standard output.",
    ),
)


def member_options(command: _F) -> _F:
    """Adds the options, and hands them to the command as `member`; it has its own `--as`, called `account`."""

    @wraps(command)
    def called(
        *, account: "AccountRef", ca: Path | None, manifests: Path | None, trust_domain: str,
        state_dir: Path | None, access_log: str, **own: Any,
    ) -> int:  # fmt: skip
        member = Member(
            account=account, ca=ca, manifests=manifests, trust_domain=trust_domain, state_dir=state_dir,
            access_log=access_log,
        )  # fmt: skip
        return command(member=member, **own)

    decorated: Any = called
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    result: _F = decorated
    return result
