"""Certificates from a CA in this process (`--ca DIR`, and inside `hbone up`): the same rules and the same ledger
as for requests that come over the socket."""

from hbone.ca.csr import new_request
from hbone.control.credentials import Credentials, credentials_from
from hbone.control.issue import CertificateRequest, Issuer
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import new_key

CALLER = "this process"
LOCAL_HOLDER = "this process"
"""The node inside `hbone up`: it has a trust bundle in force before it could be asked."""


class LocalCa:
    """A source of certificates (`SvidSource`)."""

    def __init__(self, issuer: Issuer, *, ttl_s: float = 0.0) -> None:
        self.issuer = issuer
        self._ttl_s = ttl_s

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        """Raises HboneError."""
        key = new_key()
        request = CertificateRequest(
            csr=new_request(key, spiffe_id), ttl_s=int(self._ttl_s), impersonated=str(spiffe_id), holder=LOCAL_HOLDER
        )
        issued = await self.issuer.issue(request, caller=CALLER, refusal=lambda _: "")
        return credentials_from(issued.response(), key, spiffe_id)
