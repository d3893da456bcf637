"""A CA in a directory, by Istio's names, as an operator brings it."""

from pathlib import Path

from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.material import ROOT_KEY, SECRET_FILES, files_of
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock, new_key, system_rng

CLUSTER = TrustDomain("cluster.local")


def whole_ca(directory: Path, domain: TrustDomain = CLUSTER) -> CertificateAuthority:
    """A new one with all its files, the root's key too; modes 0700 and 0600."""
    keys = CaKeys(root=new_key(), intermediate=new_key())
    authority = CertificateAuthority.create(domain, keys, now=SystemClock().wall(), rng=system_rng())
    directory.mkdir(mode=0o700, parents=True)
    for name, content in files_of(authority).items():
        path = directory / name
        path.touch(0o600 if name in SECRET_FILES else 0o644)
        path.write_bytes(content)
    return authority


def ca_files(directory: Path, domain: TrustDomain = CLUSTER) -> Path:
    """A new one. The root's key is not there: whoever has such a CA keeps it elsewhere."""
    whole_ca(directory, domain)
    (directory / ROOT_KEY).unlink()
    return directory
