"""Throwaway certificates for one run, by our own CA: a root, an intermediate, and one leaf per proxy.

Both kinds of pair trust the same root. Envoy is given leaf and key files; hbone the CA itself, in the file names
that Istio uses for a plugged-in CA, and issues its own leaves.
"""

import random
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.material import PLUGGED_IN, SECRET_FILES, files_of
from hbone.ca.profile import new_serial
from hbone.identity.spiffe import SpiffeId, TrustDomain, parse_trust_domain
from hbone.identity.svid import X509Svid
from hbone.times import WallTime
from hbone.values import dataclass

LIFE_S = 86_400.0
TRUST_DOMAIN = parse_trust_domain("cluster.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A proxy's certificate files: the chain is leaf and intermediate, the key PKCS#8."""

    spiffe_id: SpiffeId
    chain: Path
    key: Path
    root: Path


class BenchPki:
    """Writes its files into `directory` (made with mode 0700)."""

    def __init__(self, directory: Path, domain: TrustDomain = TRUST_DOMAIN) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self.domain = domain
        self._rng = random.SystemRandom()
        keys = CaKeys(root=_new_key(), intermediate=_new_key())
        self.authority = CertificateAuthority.create(domain, keys, now=_now(), rng=self._rng)
        self.root = directory / PLUGGED_IN.roots
        for name, content in files_of(self.authority).items():
            _write(directory / name, content, secret=name in SECRET_FILES)

    def identity(self, namespace: str, account: str, *, ttl_s: float = LIFE_S) -> Identity:
        """Issue a leaf for a service account; a second call for the same one replaces its files."""
        spiffe_id = SpiffeId.for_workload(self.domain, namespace, account)
        key = _new_key()
        serial = new_serial(self._rng)
        issued = self.authority.issue(key.public_key(), spiffe_id, ttl_s=ttl_s, now=_now(), serial=serial)
        svid = X509Svid.of(issued.chain, key)
        stem = self.directory / f"{namespace}-{account}"
        chain_file, key_file = stem.with_suffix(".pem"), stem.with_suffix(".key")
        _write(chain_file, svid.chain_pem(), secret=False)
        _write(key_file, svid.key_pem(), secret=True)
        return Identity(spiffe_id=spiffe_id, chain=chain_file, key=key_file, root=self.root)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _now() -> WallTime:
    return WallTime(time.time())


def _write(path: Path, content: bytes, *, secret: bool) -> None:
    path.touch(mode=0o600 if secret else 0o644)
    path.write_bytes(content)
