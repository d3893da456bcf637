"""Everything that can be judged without starting anything: `hbone node --check`."""

from hbone.app.options import mesh_names
from hbone.app.parts import identity_source
from hbone.app.place import Place
from hbone.app.sources import load_local_file, load_manifests
from hbone.config.model import NodeSettings
from hbone.discovery.manifests import Defaults
from hbone.errors import InvalidConfiguration, Problem


def check_node(settings: NodeSettings, place: Place) -> None:
    """Raises InvalidConfiguration with all problems of the files, UsageError for what else is in the way."""
    problems: list[Problem] = []
    try:
        if settings.manifests is not None:
            defaults = Defaults(trust_domain=settings.trust_domain, network=settings.network)
            load_manifests(settings.manifests, defaults, mesh_names(settings))
    except InvalidConfiguration as error:
        problems.extend(error.problems)
    try:
        if settings.local_xds is not None:
            load_local_file(settings.local_xds)
    except InvalidConfiguration as error:
        problems.extend(error.problems)
    if problems:
        raise InvalidConfiguration(problems)
    identity_source(settings, place)
