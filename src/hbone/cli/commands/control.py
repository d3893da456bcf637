"""`hbone control`: the control plane alone."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hbone.cli.arguments import PATH

if TYPE_CHECKING:
    from hbone.config.load import Flag, Loaded
    from hbone.config.model import ControlSettings

LISTEN = "0.0.0.0:15012"


@click.command()
@click.option("--config", type=PATH, help="Settings file (YAML).")
@click.option(
    "--listen", metavar="ADDR:PORT", help=f"Where other machines connect, by TLS [default: {LISTEN}]; or off."
)
@click.option("--advertise", metavar="HOST:PORT", help="What join tokens call that address.")
@click.option("--manifests", metavar="DIR", help="Directory of manifests.")
@click.option("--trust-domain", metavar="NAME", help="Trust domain of the mesh [default: cluster.local].")
@click.option("--ca", metavar="DIR", help="Issue from this CA instead of one made in the state directory.")
@click.option("--state-dir", type=PATH, help="Where the CA, its records and the socket are kept.")
@click.option("--print-config", is_flag=True, help="Print every setting, its value and origin, and end.")
def control(config: Path | None, state_dir: Path | None, print_config: bool, **flags: str | None) -> int:
    """The control plane alone: issues identities and tells every node the mesh.

    It speaks the protocols of Istio's: ztunnels and Envoys take it for an istiod. `hbone token create` lets a machine
    in. Every setting is also an environment variable (HBONE_…); flags win over variables, variables over the file. The
    file is read again when it changes: what can be changed then is `live` in the reference of settings.
    """
    from hbone.cli.settings import control_file, control_flags, placed

    environment = dict(os.environ)
    given = control_flags({**flags, "state_dir": state_dir})

    def load() -> "Loaded[ControlSettings]":
        return _load(config, environment, given)

    loaded = load()
    if print_config:
        from hbone.config.show import show

        click.echo(show(loaded), nl=False)
        return 0
    from hbone.app.control import run_control
    from hbone.app.place import Place
    from hbone.app.run import run
    from hbone.telemetry.log import Logs

    logs = Logs(loaded.settings.logging)
    try:
        with placed(loaded):
            here = Place(environment=environment, state_dir=state_dir)
            file = control_file(config, load)
            settings = loaded.settings
            return run(lambda stop: run_control(settings, here, logs, stop, say=_say, file=file), carries=False)
    finally:
        logs.close()


def _load(config: Path | None, environment: "dict[str, str]", given: "tuple[Flag, ...]") -> "Loaded[ControlSettings]":
    """The settings as they are now; this command listens for other machines unless it is told otherwise."""
    from hbone.cli.settings import settings_file
    from hbone.config.load import Flag, Origin, OriginKind, load_control

    loaded = load_control(settings_file(config), environment, given)
    place = "listeners.control_tls"
    if loaded.origin(place).kind is not OriginKind.DEFAULT:
        return loaded
    default = Flag(path=place, flag="--listen", value=LISTEN)
    loaded = load_control(settings_file(config), environment, (*given, default))
    return type(loaded)(settings=loaded.settings, origins={**loaded.origins, place: Origin(OriginKind.DEFAULT)})


def _say(lines: list[str]) -> None:
    for line in lines:
        click.echo(line, err=True)
