"""The key that signs a mesh's JWT-SVIDs, in a file of mode 0600: made at first use, the same ever after."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hbone.control.jwt_svid import JwtKeys
from hbone.control.keys import write_whole
from hbone.control.statedir import intrusions
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.identity.svid import InvalidSvid, load_key
from hbone.net.clock import new_key


def load_or_create(path: Path, trust_domain: TrustDomain) -> JwtKeys:
    """Raises UsageError, InvalidConfiguration for a file that others may read."""
    try:
        if not path.exists():
            write_whole(path, new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        problems = intrusions(path, "0600")
        if problems:
            raise InvalidConfiguration(problems)
        key = load_key(path.read_bytes())
    except OSError as error:
        raise UsageError(f"the key {path} cannot be used", why=error.strerror or str(error)) from error
    except InvalidSvid as error:
        raise UsageError(f"{path} is no key", why=error.what, fix="restore it, or remove it for a new one") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise UsageError(f"{path} holds another kind of key", fix="remove it: a key on P-256 is made then")
    return JwtKeys.of(trust_domain, key)
