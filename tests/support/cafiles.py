"""A CA in a directory, by Istio's names, as an operator brings it."""

import secrets
from pathlib import Path

from hbone.ca.material import ROOT_KEY
from hbone.control import cadir
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock, system_rng

CLUSTER = TrustDomain("cluster.local")


def ca_files(directory: Path, domain: TrustDomain = CLUSTER) -> Path:
    """A new one. The root's key is not there: whoever has such a CA keeps it elsewhere."""
    made = directory.with_name(f"{directory.name}-{secrets.token_hex(4)}")
    cadir.load_or_create(made, domain, clock=SystemClock(), rng=system_rng())
    (made / ROOT_KEY).unlink()
    return made.rename(directory)
