"""Trust bundles: which roots may vouch for which trust domain, and the SPIFFE bundle document.

Roots are kept per trust domain and never poured together: a root of one domain says nothing about another
(SPIFFE Federation §4.2). A domain with an empty tuple of roots is known and trusted for nothing.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any, Final, Self, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from hbone.errors import HboneError
from hbone.identity.jwk import CURVE_NAMES, InvalidKeySet, Jwk, parse_key_set, to_jwk
from hbone.identity.pem import NoCertificates, certificates_in
from hbone.identity.revocation import Revocations
from hbone.identity.spiffe import DomainNames, SpiffeId, TrustDomain
from hbone.values import dataclass

X509_USE: Final = "x509-svid"
JWT_USE: Final = "jwt-svid"

MAX_ROOTS: Final = 100  # per trust domain; a rotation needs two, and path building tries each


class InvalidBundle(HboneError):
    """Text that is no trust bundle."""

    flag = "IDENTITY_ERROR"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """Roots per trust domain, and what has been revoked below them. Equal bundles hold the same roots in the same
    order, and the same revocations.

    `aliases`: pairs of a mesh's further name and the one it is an alias of, whose roots vouch for both. Identities that
    differ in such names alone are the same workload's.
    """

    roots: Mapping[TrustDomain, tuple[x509.Certificate, ...]]
    revocations: Revocations = field(default_factory=Revocations)
    aliases: frozenset[tuple[TrustDomain, TrustDomain]] = frozenset()
    _stores: Mapping[TrustDomain, Store] = field(init=False, repr=False, compare=False)
    _meshes: Mapping[TrustDomain, TrustDomain] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = {**self.roots}
        for alias, name in self.aliases:
            if name in self.roots:
                given[alias] = (*given.get(alias, ()), *self.roots[name])
        roots = {domain: _distinct(certificates) for domain, certificates in given.items()}
        for domain, certificates in roots.items():
            if len(certificates) > MAX_ROOTS:
                raise InvalidBundle(f"trust domain {domain} has {len(certificates)} roots", fix=f"at most {MAX_ROOTS}")
        object.__setattr__(self, "roots", MappingProxyType(roots))
        stores = {domain: Store(list(certificates)) for domain, certificates in roots.items() if certificates}
        object.__setattr__(self, "_stores", MappingProxyType(stores))
        object.__setattr__(self, "_meshes", _meshes(self.aliases))

    @classmethod
    def of(cls, domain: TrustDomain, certificates: Iterable[x509.Certificate]) -> Self:
        return cls(roots={domain: tuple(certificates)})

    @classmethod
    def from_pem(cls, domain: TrustDomain, pem: bytes) -> Self:
        """One or several concatenated certificates; raises InvalidBundle."""
        try:
            return cls.of(domain, certificates_in(pem))
        except NoCertificates as error:
            raise InvalidBundle(
                f"the roots of trust domain {domain} are not PEM certificates",
                why=str(error),
                fix="give one or more BEGIN CERTIFICATE blocks",
            ) from error

    @classmethod
    def union(cls, bundles: Iterable["TrustBundle"]) -> "TrustBundle":
        """All of them in one; a domain that is in several has the roots of all."""
        whole = TrustBundle(roots={})
        for bundle in bundles:
            whole = whole.merged(bundle)
        return whole

    def __hash__(self) -> int:
        return hash(frozenset(self.roots.items()))

    @property
    def domains(self) -> frozenset[TrustDomain]:
        return frozenset(self.roots)

    def store(self, domain: TrustDomain) -> Store | None:
        """The roots of one domain, ready for path validation; None where it has none."""
        return self._stores.get(domain)

    def merged(self, other: "TrustBundle") -> "TrustBundle":
        """Both; a domain that is in both has the roots of both, ours first."""
        domains = {**self.roots, **other.roots}
        return TrustBundle(
            roots={domain: (*self.roots.get(domain, ()), *other.roots.get(domain, ())) for domain in domains},
            revocations=self.revocations.merged(other.revocations),
            aliases=self.aliases | other.aliases,
        )

    def replaced(self, domain: TrustDomain, certificates: Iterable[x509.Certificate]) -> "TrustBundle":
        """With exactly these roots for `domain`, the other domains as they are."""
        return replace(self, roots={**self.roots, domain: tuple(certificates)})

    def without(self, domain: TrustDomain) -> "TrustBundle":
        return replace(self, roots={name: roots for name, roots in self.roots.items() if name != domain})

    def naming(self, aliases: Iterable[tuple[TrustDomain, TrustDomain]]) -> "TrustBundle":
        """With these aliases too: (further name, name)."""
        return replace(self, aliases=self.aliases | frozenset(aliases))

    def canonical(self, spiffe_id: SpiffeId) -> SpiffeId:
        """One and the same form for all names of one workload."""
        name = self._meshes.get(spiffe_id.trust_domain)
        return spiffe_id if name is None else SpiffeId(name, spiffe_id.path)

    def names_of(self, domain: TrustDomain) -> DomainNames:
        """All names of the mesh that has this one, its present name as its own."""
        mesh = self._meshes.get(domain)
        if mesh is None:
            return DomainNames(domain)
        names = frozenset(name for name, one in self._meshes.items() if one == mesh)
        present = next((name for alias, name in sorted(self.aliases) if alias == domain), domain)
        return DomainNames(present, names - {present})

    def is_one_of(self, spiffe_id: SpiffeId, expected: Iterable[SpiffeId]) -> bool:
        """Whether it is one of these workloads, under whichever of its mesh's names."""
        return self.canonical(spiffe_id) in map(self.canonical, expected)

    def revoking(self, revocations: Revocations) -> "TrustBundle":
        """With exactly these revocations."""
        return replace(self, revocations=revocations)

    def pem(self, domain: TrustDomain) -> bytes:
        return b"".join(root.public_bytes(Encoding.PEM) for root in self.roots.get(domain, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleDocument:
    """A SPIFFE bundle document (Trust Domain and Bundle §4).

    `sequence` grows with every change of content, `refresh_hint_s` is how often to poll; None where absent. No
    roots and no keys: everything that the domain issued is revoked.
    """

    roots: tuple[x509.Certificate, ...]
    jwt_keys: tuple[Jwk, ...] = ()
    sequence: int | None = None
    refresh_hint_s: int | None = None

    def to_json(self) -> str:
        x509_keys = [_entry(root) for root in self.roots]
        jwt_keys = [{**to_jwk(one.key), "kid": one.kid, "use": JWT_USE} for one in self.jwt_keys]
        document: dict[str, Any] = {"keys": [*x509_keys, *jwt_keys]}
        if self.sequence is not None:
            document["spiffe_sequence"] = self.sequence
        if self.refresh_hint_s is not None:
            document["spiffe_refresh_hint"] = self.refresh_hint_s
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Entries of unknown type or use, and those without a usable certificate or `kid`, are left out as §4 demands.

        Raises InvalidBundle where the document itself is malformed.
        """
        try:
            document: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidBundle("a SPIFFE bundle is not JSON", why=str(error)[:200]) from error
        if not isinstance(document, dict):
            raise InvalidBundle("a SPIFFE bundle is not a JSON object", fix='write {"keys": […]}')
        members = cast("dict[str, object]", document)
        keys = members.get("keys")
        if not isinstance(keys, list):
            raise InvalidBundle("a SPIFFE bundle has no array `keys`", fix='write {"keys": […]}, it may be empty')
        roots = [root for key in cast("list[object]", keys) if (root := _root_of(key)) is not None]
        return cls(
            roots=_distinct(roots),
            jwt_keys=_jwt_keys(text),
            sequence=_integer(members, "spiffe_sequence"),
            refresh_hint_s=_integer(members, "spiffe_refresh_hint"),
        )

    @property
    def content(self) -> tuple[object, ...]:
        """What it vouches with: equal for documents that differ in number and hint alone."""
        return frozenset(self.roots), frozenset((one.kid, json.dumps(to_jwk(one.key))) for one in self.jwt_keys)


def _distinct(certificates: Iterable[x509.Certificate]) -> tuple[x509.Certificate, ...]:
    return tuple(dict.fromkeys(certificates))


def _meshes(aliases: Iterable[tuple[TrustDomain, TrustDomain]]) -> Mapping[TrustDomain, TrustDomain]:
    """Name → one name of all that are, by way of whatever aliases, the same mesh's."""
    found: dict[TrustDomain, TrustDomain] = {}
    for pair in aliases:
        known = {found.get(name, name) for name in pair}
        one = min(known)
        found.update(dict.fromkeys(pair, one))
        found.update({name: one for name, former in found.items() if former in known})
    return MappingProxyType(found)


def _jwt_keys(text: str | bytes) -> tuple[Jwk, ...]:
    try:
        return tuple(one for one in parse_key_set(text, use=JWT_USE) if one.kid)
    except InvalidKeySet as error:
        raise InvalidBundle(error.what, why=error.why, fix=error.fix) from error


def _integer(members: dict[str, object], name: str) -> int | None:
    number = members.get(name)
    if number is None:
        return None
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 1 << 64:
        return number
    raise InvalidBundle(f"{name} of a SPIFFE bundle is not a natural number of 64 bits", fix="write an integer")


def _root_of(entry: object) -> x509.Certificate | None:
    """The certificate of one `x509-svid` JWK, None for entries that a consumer must ignore."""
    if not isinstance(entry, dict):
        return None
    key = cast("dict[str, object]", entry)
    chain = key.get("x5c")
    if key.get("use") != X509_USE or key.get("kty") not in ("EC", "RSA") or not isinstance(chain, list):
        return None
    first = next(iter(cast("list[object]", chain)), None)
    if not isinstance(first, str):
        return None
    try:
        root = x509.load_der_x509_certificate(base64.b64decode(first, validate=True))
        _entry(root)  # one that could not be written again cannot be kept either
    except (ValueError, binascii.Error, x509.InvalidVersion, InvalidBundle):
        return None
    return root


def _entry(root: x509.Certificate) -> dict[str, Any]:
    """No `kid`, which §4 forbids for x509-svid."""
    try:
        key = root.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidBundle("a root's key cannot be read", why=str(error)[:200], fix="use P-256") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise InvalidBundle("a root's key is neither EC nor RSA", fix="use P-256")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in CURVE_NAMES:
        raise InvalidBundle(f"a root's key is on {key.curve.name}", fix="use P-256")
    return {**to_jwk(key), "use": X509_USE, "x5c": [base64.b64encode(root.public_bytes(Encoding.DER)).decode()]}
