"""The CA's keys on a PKCS#11 token: an HSM, a smart card, or SoftHSM. They are made there and never leave it.

Needs the package `python-pkcs11` (`pip install 'hbone[pkcs11]'`) and the token's own module, a shared library. Keys
that are still in files go on signing; the next rotation makes its keys on the token.
"""

import threading
from collections.abc import Iterable
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    PrivateFormat,
    load_der_public_key,
)

from hbone.control.keys import FileKeys, KeyId, KeyUnavailable, key_id_of
from hbone.errors import UsageError
from hbone.identity.svid import PrivateKey
from hbone.values import dataclass

LABEL: Final = "hbone ca"
"""Of all keys that we make: others on the same token are left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPlace:
    """Which token: `module` is the library that speaks to it, `label` its own, `pin` that of its user."""

    module: Path
    label: str
    pin: str


class TokenKeys:
    """`hbone.control.keys.KeyProvider` on a token. One session, one operation at a time."""

    def __init__(self, place: TokenPlace, files: FileKeys) -> None:
        """Raises UsageError where the package, the module, the token or the pin is wrong."""
        self._files = files
        self._lock = threading.Lock()
        self._session = _session(place)
        self._api: Any = import_module("pkcs11")
        self._ec: Any = import_module("pkcs11.util.ec")

    def create(self) -> tuple[KeyId, PrivateKey]:

        with self._lock, _translated("a key cannot be made on the token"):
            curve = {self._api.Attribute.EC_PARAMS: self._ec.encode_named_curve_parameters("secp256r1")}
            parameters = self._session.create_domain_parameters(self._api.KeyType.EC, curve, local=True)
            public, private = parameters.generate_keypair(
                store=True, label=LABEL, capabilities=self._api.MechanismFlag.SIGN | self._api.MechanismFlag.VERIFY
            )
            der = self._ec.encode_ec_public_key(public)
            key_id = KeyId(sha256(der).hexdigest())
            for half in (public, private):
                half[self._api.Attribute.ID] = bytes.fromhex(key_id)
        return key_id, self._key(private, der)

    def load(self, key_id: KeyId) -> PrivateKey:

        if self._files.path(key_id).exists():
            return self._files.load(key_id)
        with self._lock, _translated("the CA's key cannot be found on the token"):
            public, private = self._pair(key_id)
            if public is None or private is None:
                raise KeyUnavailable(
                    f"the CA's key {key_id} is neither on the token nor in {self._files.directory}",
                    fix="put in the token that it was made on; or make a new root: `hbone ca rotate-root --recover`",
                )
            return self._key(private, self._ec.encode_ec_public_key(public))

    def take(self, key: PrivateKey) -> KeyId:
        key_id = key_id_of(key)
        if isinstance(key, _TokenKey) or self._files.path(key_id).exists():
            return key_id
        raise KeyUnavailable(
            "a key that was made elsewhere is not put on the token",
            why="who made it may have kept it",
            fix="have the token's key signed instead, or run without a token",
        )

    def destroy(self, key_id: KeyId) -> None:
        self._files.destroy(key_id)
        with self._lock, _translated("a key cannot be removed from the token"):
            for half in self._pair(key_id):
                if half is not None:
                    half.destroy()

    def names(self) -> Iterable[KeyId]:

        with self._lock, _translated("the token cannot be read"):
            wanted = {self._api.Attribute.CLASS: self._api.ObjectClass.PRIVATE_KEY, self._api.Attribute.LABEL: LABEL}
            on_token = [KeyId(bytes(key[self._api.Attribute.ID]).hex()) for key in self._session.get_objects(wanted)]
        return [*on_token, *self._files.names()]

    def close(self) -> None:
        self._session.close()

    def _pair(self, key_id: KeyId) -> tuple[Any, Any]:
        """(public, private) objects; None for what is not there."""

        def find(kind: Any) -> Any:
            wanted = {
                self._api.Attribute.CLASS: kind,
                self._api.Attribute.LABEL: LABEL,
                self._api.Attribute.ID: bytes.fromhex(key_id),
            }
            return next(iter(list(self._session.get_objects(wanted))), None)

        return find(self._api.ObjectClass.PUBLIC_KEY), find(self._api.ObjectClass.PRIVATE_KEY)

    def _key(self, private: Any, public_der: bytes) -> PrivateKey:
        public = load_der_public_key(public_der)
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise KeyUnavailable("the token's key is no EC key", fix="use a key that hbone has made")
        return _TokenKey(private, public, self._lock)


class _TokenKey(ec.EllipticCurvePrivateKey):
    """Signs on the token. `cryptography` calls `sign` for certificates and lists as it does for its own keys."""

    def __init__(self, private: Any, public: ec.EllipticCurvePublicKey, lock: threading.Lock) -> None:
        self._private = private
        self._public = public
        self._lock = lock

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:

        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed):
            digest = bytes(data)
        else:
            context = hashes.Hash(algorithm)
            context.update(data)
            digest = context.finalize()
        with self._lock, _translated("the token does not sign"):
            raw: bytes = self._private.sign(digest, mechanism=import_module("pkcs11").Mechanism.ECDSA)
        half = len(raw) // 2  # PKCS#11 §6.3.1: r and s, each as long as the group's order
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._public

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._public.curve

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise KeyUnavailable("a CA's key signs and does nothing else")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise KeyUnavailable("the key never leaves its token")

    def private_bytes(
        self,
        encoding: Encoding,
        format: PrivateFormat,  # noqa: A002 - cryptography's name for it
        encryption_algorithm: KeySerializationEncryption,
    ) -> bytes:
        raise KeyUnavailable("the key never leaves its token")

    def __copy__(self) -> "_TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "_TokenKey":
        return self


def _session(place: TokenPlace) -> Any:
    try:
        pkcs11: Any = import_module("pkcs11")
    except ImportError as error:
        raise UsageError("keys on a token need the package python-pkcs11", fix="pip install 'hbone[pkcs11]'") from error
    try:
        token = pkcs11.lib(str(place.module)).get_token(token_label=place.label)
        return token.open(rw=True, user_pin=place.pin)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        why = str(error) or type(error).__name__
        raise UsageError(
            f"the token {place.label!r} of {place.module} cannot be used",
            why=why[:200],
            fix="check the module's path, the token's label and the pin",
        ) from error


class _translated:
    """The library's errors as ours."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:

        if isinstance(error, import_module("pkcs11").PKCS11Error):
            raise KeyUnavailable(self._what, why=str(error) or type(error).__name__) from error
