"""Everything that can be judged without starting anything: `hbone node --check`."""

from hbone.app.node import Place, identity_source
from hbone.app.sources import load_local_file, read_directory
from hbone.config.model import NodeSettings
from hbone.discovery.manifests import Defaults, parse_manifests
from hbone.errors import InvalidConfiguration, Problem


def check_node(settings: NodeSettings, place: Place) -> None:
    """Raises InvalidConfiguration with all problems of the files, UsageError for what else is in the way."""
    problems: list[Problem] = []
    try:
        if settings.manifests is not None:
            defaults = Defaults(trust_domain=settings.trust_domain, network=settings.network)
            parse_manifests(read_directory(settings.manifests), defaults)
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
