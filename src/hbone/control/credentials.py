"""What an identity is worth: a certificate with its key, and the roots to judge others by."""

from collections.abc import Sequence
from typing import Protocol

from cryptography import x509

from hbone.errors import HboneError
from hbone.identity.bundle import InvalidBundle, TrustBundle
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import InvalidSvid, PrivateKey, X509Svid
from hbone.values import dataclass


class InvalidAnswer(HboneError):
    """What the CA answered is not a certificate for what was asked."""

    flag = "IDENTITY_ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """One generation of an identity's certificate, and the trust bundle that came with it."""

    svid: X509Svid
    bundle: TrustBundle


class SvidSource(Protocol):
    """Where certificates come from: a CA over gRPC (`ca_client`), or one in this process (`local_ca`)."""

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        """A new certificate with a new key; raises HboneError."""
        ...


def credentials_from(cert_chain: Sequence[str], key: PrivateKey, spiffe_id: SpiffeId) -> Credentials:
    """From Istio's `cert_chain`: the leaf, intermediates, and last all roots in one string. Raises InvalidAnswer."""
    if len(cert_chain) < 2:
        what = "a chain without root" if cert_chain else "an empty chain"
        raise InvalidAnswer(f"the CA returned {what} for {spiffe_id}", fix="check the CA's root-cert.pem")
    try:
        chain = [x509.load_pem_x509_certificate(part.encode()) for part in cert_chain[:-1]]
        svid = X509Svid.of(chain, key)
        bundle = TrustBundle.from_pem(spiffe_id.trust_domain, cert_chain[-1].encode())
    except ValueError as error:
        raise InvalidAnswer(f"the CA's chain for {spiffe_id} is not PEM", why=str(error)[:200]) from error
    except (InvalidSvid, InvalidBundle) as error:
        raise InvalidAnswer(error.what, why=error.why, fix=error.fix) from error
    if svid.spiffe_id != spiffe_id:
        raise InvalidAnswer(f"the CA returned a certificate of {svid.spiffe_id}", why=f"{spiffe_id} was asked for")
    return Credentials(svid=svid, bundle=bundle)
