"""Certificate requests (PKCS#10): the one that a workload makes, and the check of one that arrived."""

import enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.errors import PeerViolation
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import MIN_RSA_BITS, PrivateKey, PublicKey

MAX_REQUEST_BYTES = 16 * 1024  # an RSA-4096 request with a 2048-byte SPIFFE ID has 4.5 KiB
MAX_RSA_BITS = 8192  # a larger key costs every verifier dear


class InvalidRequest(PeerViolation):
    """A certificate request that is not signed: malformed, wrong key, or for somebody else."""


class KeyKinds(enum.Enum):
    """Keys that a certificate may be issued for."""

    P256 = "P-256"
    ISTIO = "P-256, P-384 or RSA from 2048 bits"  # Istio's agents make RSA-2048 by default


def new_request(key: PrivateKey, spiffe_id: SpiffeId) -> str:
    """The request as PEM: empty subject and one critical URI name, as ztunnel writes it."""
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(names, critical=True)
    return request.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def check_request(pem: str | bytes, spiffe_id: SpiffeId, *, keys: KeyKinds = KeyKinds.P256) -> PublicKey:
    """The public key to certify for `spiffe_id`, which the caller was found to be entitled to.

    Of the request itself only the key and the proof of its possession count; names in it must be absent or exactly
    `spiffe_id`, so that nobody is surprised by what was signed. Raises InvalidRequest.
    """
    raw = pem.encode() if isinstance(pem, str) else pem
    if len(raw) > MAX_REQUEST_BYTES:
        raise InvalidRequest(f"a certificate request of {len(raw)} bytes", fix=f"send at most {MAX_REQUEST_BYTES}")
    try:
        request = x509.load_pem_x509_csr(raw)
        key = request.public_key()
        proven = request.is_signature_valid
        uris, others = _names(request)
    except Exception as error:  # `cryptography` has a dozen for what can be wrong with a stranger's bytes
        raise InvalidRequest(
            "the certificate request cannot be read", why=str(error)[:200], fix="send one PEM CERTIFICATE REQUEST"
        ) from error
    if not proven:
        raise InvalidRequest(
            "the certificate request's signature is wrong",
            why="it was not made with the key that it names",
            fix="sign the request with its own private key",
        )
    if others or uris not in ([], [str(spiffe_id)]):
        raise InvalidRequest(
            f"the certificate request is not for {spiffe_id}",
            why=f"it asks for {', '.join([*uris, *others])[:300]}",
            fix="ask for exactly this URI name, or for none",
        )
    return _checked_key(key, keys)


def _names(request: x509.CertificateSigningRequest) -> tuple[list[str], list[str]]:
    """URI names, and all other names in words."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return uris, [repr(name) for name in names if not isinstance(name, x509.UniformResourceIdentifier)]


def _checked_key(key: object, keys: KeyKinds) -> PublicKey:
    if isinstance(key, ec.EllipticCurvePublicKey):
        if isinstance(key.curve, ec.SECP256R1) or (keys is KeyKinds.ISTIO and isinstance(key.curve, ec.SECP384R1)):
            return key
        found = f"it is on the curve {key.curve.name}"
    elif isinstance(key, rsa.RSAPublicKey):
        if keys is KeyKinds.ISTIO and MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            return key
        found = f"it is RSA with {key.key_size} bits"
    else:
        found = "it is neither EC nor RSA"
    raise InvalidRequest("the certificate request's key is not accepted", why=found, fix=f"use {keys.value}")
