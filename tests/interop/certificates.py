"""A mesh's CA that can also make certificates which no good CA would."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hbone.bench.pki import TRUST_DOMAIN, BenchPki, Identity
from hbone.ca.authority import CertificateAuthority
from hbone.ca.material import PLUGGED_IN, ROOT_KEY, files_of
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.svid import PrivateKey, X509Svid
from tests.support.pki import Sheet, SpiffeCA, new_key


class MeshPki(BenchPki):
    """Root and intermediate are a test's; in `directory` they are a plugged-in CA for a node, by Istio's names.

    `identity` gives good leaves, issued by our own CA's code; `odd` gives what a Sheet says, unchecked.
    """

    def __init__(self, directory: Path, domain: TrustDomain = TRUST_DOMAIN) -> None:
        super().__init__(directory, domain)
        self._signer = SpiffeCA("test root").intermediate("test intermediate")
        self.authority = CertificateAuthority(
            trust_domain=domain,
            signer=self._signer.cert,
            key=self._signer.key,
            chain=self._signer.above(),
            roots=(self._signer.root,),
        )
        (directory / ROOT_KEY).unlink()
        for name, content in files_of(self.authority).items():
            (directory / name).write_bytes(content)
        self._made = 0

    def spiffe_id(self, account: str) -> SpiffeId:
        """Of a service account in the namespace shop."""
        return SpiffeId.for_workload(self.domain, "shop", account)

    def odd(self, spiffe_id: SpiffeId, *, key: PrivateKey | None = None, **changes: Any) -> Identity:
        """A leaf for `spiffe_id` with fields of its Sheet changed (`uris` too, if the identity itself is odd)."""
        self._made += 1
        key = key or new_key()
        sheet = replace(Sheet(uris=(str(spiffe_id),)), **changes)
        svid = X509Svid(chain=(self._signer.sign(sheet, key), *self._signer.above()), key=key, spiffe_id=spiffe_id)
        chain, secret = (self.directory / f"odd-{self._made}.{kind}" for kind in ("pem", "key"))
        chain.write_bytes(svid.chain_pem())
        secret.touch(mode=0o600)
        secret.write_bytes(svid.key_pem())
        return Identity(spiffe_id=spiffe_id, chain=chain, key=secret, root=self.directory / PLUGGED_IN.roots)
