"""The judgement of a peer: does its chain prove an identity that we trust, and is it the one we want?

One function, `verify_peer`, in the order of the SPIFFE standard: the leaf's own rules, the roots of *its* trust domain
and of no other, path validation (RFC 5280 §6, by `cryptography`) and at last the wanted identity. A refusal is a
`PeerRejected` that names the alert for the peer and the remedy for the operator. DNS names and SNI play no part.

Why not the roots of all domains in one store, with a look at the identity afterwards: the root of domain A could then
vouch for identities of domain B.
"""

import enum
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from hbone.errors import PeerRejected
from hbone.identity.bundle import TrustBundle
from hbone.identity.proven import ProvenPath
from hbone.identity.refusals import (
    BrokenChain,
    Expired,
    ForeignTrustDomain,
    NoCertificate,
    NotYetValid,
    Revoked,
    UnexpectedIdentity,
    UntrustedRoot,
    WrongUsage,
)
from hbone.identity.rotation import BACKDATED_S
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import NotAnSvid, extended_usage, leaf_faults, spiffe_id_of
from hbone.times import WallTime
from hbone.values import dataclass

__all__ = [
    "BrokenChain",
    "Expired",
    "ForeignTrustDomain",
    "Judged",
    "NoCertificate",
    "NotAnSvid",
    "NotYetValid",
    "PeerSide",
    "Revoked",
    "UnexpectedIdentity",
    "UntrustedRoot",
    "WrongUsage",
    "check_revoked",
    "judge_peer",
    "leads_to",
    "path_to_root",
    "verify_peer",
]

MAX_CHAIN = 10  # certificates that a peer may present; a mesh needs two or three
MAX_INTERMEDIATES = 8  # on one path, as webpki limits it


class PeerSide(enum.Enum):
    """The part that the judged peer plays in the handshake."""

    CLIENT = "client"
    SERVER = "server"


_USAGE = {
    PeerSide.CLIENT: (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"),
    PeerSide.SERVER: (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"),
}


def verify_peer(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle,
    *,
    expected: frozenset[SpiffeId] | None,
    side: PeerSide,
    now: WallTime,
) -> SpiffeId:
    """The identity that `chain` (leaf first, then what else was presented) proves; raises PeerRejected.

    `expected`: the identities that are acceptable, None for any that the bundle vouches for (policy judges later);
    an empty set accepts nobody. `side`: what the peer is in this handshake.
    """
    return judge_peer(chain, bundle, expected=expected, side=side, now=now).spiffe_id


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """An accepted peer: the identity that it proved, and how."""

    spiffe_id: SpiffeId
    path: ProvenPath


def judge_peer(
    chain: Sequence[x509.Certificate],
    bundle: TrustBundle,
    *,
    expected: frozenset[SpiffeId] | None,
    side: PeerSide,
    now: WallTime,
    proven: ProvenPath | None = None,
) -> Judged:
    """`verify_peer`, which tells also by which path. `proven`: one that this very chain had before.

    It spares the signatures while it holds (see `hbone.identity.proven`), and changes no answer.
    """
    try:
        return _judge(_Presented(chain=chain, proven=proven), bundle, expected, side, now)
    except PeerRejected:
        raise
    except Exception as error:  # `cryptography` parses as it is asked: any part of any certificate may be garbage
        raise BrokenChain("the peer's certificates cannot be read", why=repr(error)[:300]) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Presented:
    chain: Sequence[x509.Certificate]
    proven: ProvenPath | None


def _judge(
    presented: _Presented,
    bundle: TrustBundle,
    expected: frozenset[SpiffeId] | None,
    side: PeerSide,
    now: WallTime,
) -> Judged:
    chain = presented.chain
    if not chain:
        raise NoCertificate(
            f"the {side.value} presented no certificate",
            why="a tunnel needs mutual TLS",
            fix="give it a workload certificate, or connect to the plaintext port",
        )
    if len(chain) > MAX_CHAIN:
        raise BrokenChain(f"a chain of {len(chain)} certificates", fix=f"present at most {MAX_CHAIN}")
    leaf = chain[0]
    spiffe_id = spiffe_id_of(leaf)
    for fault in leaf_faults(leaf):
        raise NotAnSvid(
            f"the certificate of {spiffe_id} is not an SVID",
            why=fault.what,
            fix=fault.fix,
            rule=f"X509-SVID {fault.section}",
            spiffe_id=spiffe_id,
        )
    _check_usage(leaf, spiffe_id, side)
    path = _path(presented, bundle, spiffe_id, now)
    check_revoked(chain, bundle, spiffe_id)
    if expected is not None and spiffe_id not in expected and not bundle.is_one_of(spiffe_id, expected):
        raise UnexpectedIdentity(
            f"the {side.value} is {spiffe_id}",
            why=f"expected {_some(expected)}",
            fix="check which workload has this address, and its service account",
            spiffe_id=spiffe_id,
            expected=expected,
        )
    return Judged(spiffe_id=spiffe_id, path=path)


def check_revoked(chain: Sequence[x509.Certificate], bundle: TrustBundle, spiffe_id: SpiffeId) -> None:
    """Raises Revoked where the bundle says so; also for peers that were accepted before it did."""
    found = bundle.revocations.is_revoked(chain)
    if found is not None:
        raise Revoked(
            f"the certificate of {spiffe_id} is revoked",
            why=f"{found.what} was revoked, reason {found.reason}",
            fix="if that was a mistake, see `hbone cert list --revoked`",
            spiffe_id=spiffe_id,
            reason=found.reason,
        )


def _check_usage(leaf: x509.Certificate, spiffe_id: SpiffeId, side: PeerSide) -> None:
    usage = extended_usage(leaf)
    wanted, name = _USAGE[side]
    if usage is not None and wanted not in usage:
        raise WrongUsage(
            f"the certificate of {spiffe_id} is not for a TLS {side.value}",
            why=f"its extended key usage lacks {name}",
            fix="have it issued with serverAuth and clientAuth",
            spiffe_id=spiffe_id,
        )


def _path(presented: _Presented, bundle: TrustBundle, spiffe_id: SpiffeId, now: WallTime) -> ProvenPath:
    """RFC 5280 §6 from the roots of the identity's own trust domain."""
    store = bundle.store(spiffe_id.trust_domain)
    if store is None:
        raise _foreign(bundle, spiffe_id)
    chain, proven = presented.chain, presented.proven
    moment = datetime.fromtimestamp(now, UTC)
    if proven is not None and proven.holds(bundle.roots[spiffe_id.trust_domain], moment):
        return proven
    try:
        path = path_to_root(chain, store, moment)
    except VerificationError as error:
        raise _why_no_path(chain, bundle, spiffe_id, moment, str(error)) from error
    if len(path) < 2:
        raise UntrustedRoot(
            f"the certificate of {spiffe_id} is its own root",
            fix="put CA certificates, not workloads' own, into the trust bundle",
            spiffe_id=spiffe_id,
        )
    return ProvenPath.of(path)


def path_to_root(chain: Sequence[x509.Certificate], store: Store, moment: datetime) -> list[x509.Certificate]:
    """A valid path from the first of `chain`, through others of it, to an anchor of `store`, which is the last.

    RFC 5280 §6 at `moment`: signatures, dates, CA flags, path lengths, key usage, name constraints, unknown critical
    extensions. Raises `cryptography.x509.verification.VerificationError`.
    """
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(moment)
        .max_chain_depth(MAX_INTERMEDIATES)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()  # for both sides: a server verifier would want a DNS name
    )
    return verifier.verify(chain[0], list(chain[1:])).chain


def _may_sign(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    """An issuer's keyUsage, where it has one (Istio's plugged-in CAs may not), allows to sign certificates."""
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("the key usage of an issuer lacks keyCertSign")


# SVID rules are ours (hbone.identity.svid), and key identifiers, which the web's profile demands, are absent from
# CAs that were made by hand; the CA flag and path length are checked in any case.
_LEAF_POLICY = ExtensionPolicy.permit_all()
_CA_POLICY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
)


def _foreign(bundle: TrustBundle, spiffe_id: SpiffeId) -> ForeignTrustDomain:
    known = ", ".join(sorted(bundle.domains)) or "none"
    return ForeignTrustDomain(
        f"no roots for trust domain {spiffe_id.trust_domain} of {spiffe_id}",
        why=f"trusted are: {known}",
        fix="check the peer's trust domain, or federate with it",
        spiffe_id=spiffe_id,
    )


def _why_no_path(
    chain: Sequence[x509.Certificate], bundle: TrustBundle, spiffe_id: SpiffeId, moment: datetime, error: str
) -> PeerRejected:
    """What to tell about a chain that was refused: repeats the search without the dates, to find the reason."""
    path, anchored = _follow(chain, bundle.roots[spiffe_id.trust_domain])
    for certificate in path:
        whose = f"the certificate of {spiffe_id}" if certificate is chain[0] else f"the issuer {_name(certificate)}"
        if moment > certificate.not_valid_after_utc:
            return Expired(
                f"{whose} ended at {certificate.not_valid_after_utc:%FT%TZ}",
                why=f"it is {moment:%FT%TZ} here",
                fix="check why the peer does not renew it, and both machines' clocks",
                spiffe_id=spiffe_id,
                not_after=certificate.not_valid_after_utc,
            )
        if moment < certificate.not_valid_before_utc:
            return _not_yet_valid(whose, certificate, spiffe_id, moment)
    if anchored:
        return BrokenChain(f"the certificate chain of {spiffe_id} is not valid", why=error[:300], spiffe_id=spiffe_id)
    return _untrusted(path[-1], bundle, spiffe_id)


def _not_yet_valid(whose: str, certificate: x509.Certificate, spiffe_id: SpiffeId, moment: datetime) -> NotYetValid:
    """Nearly always a clock: CAs date certificates back, so a peer's certificate tells what time it was at its CA."""
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    issued = begins + timedelta(seconds=BACKDATED_S)
    behind_s = (issued - moment).total_seconds()
    return NotYetValid(
        f"{whose} is not yet valid: it begins at {begins:%FT%TZ}",
        why=f"it is {moment:%FT%TZ} here, and was about {issued:%FT%TZ} at its CA when it was issued, for"
        f" {begins:%FT%TZ} to {ends:%FT%TZ}",
        fix=f"compare both machines' clocks: this one is {behind_s:.0f} s or more behind the CA's",
        spiffe_id=spiffe_id,
        not_before=begins,
    )


def _untrusted(last: x509.Certificate, bundle: TrustBundle, spiffe_id: SpiffeId) -> UntrustedRoot:
    """`last`: the certificate whose issuer was not found."""
    domain = spiffe_id.trust_domain
    for other, roots in bundle.roots.items():
        if other != domain and _issuer_of(last, roots) is not None:
            why, fix = f"it was signed by a root of {other}", f"only a root of {domain} may vouch for it"
            break
    else:
        if any(root.subject == last.issuer for root in bundle.roots[domain]):
            why = f"our root named {_text(last.issuer)} has another key"
            fix = "the CA was probably made anew: give both sides both roots until all certificates are renewed"
        else:
            why = f"its issuer {_text(last.issuer)} is neither presented nor a root of ours"
            fix = f"add that issuer's root to the bundle of {domain}, or have the peer present its intermediates"
    return UntrustedRoot(f"the certificate of {spiffe_id} is not trusted", why=why, fix=fix, spiffe_id=spiffe_id)


def leads_to(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> bool:
    """Whether one of `roots` vouches for the leaf, by signatures alone; what else was presented counts for nothing."""
    return bool(chain) and _follow(chain, roots)[1]


def _follow(
    chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
) -> tuple[list[x509.Certificate], bool]:
    """The path from the leaf upward by signatures alone, and whether it ends at a root (which is then its last)."""
    path = [chain[0]]
    while len(path) <= MAX_CHAIN:
        root = _issuer_of(path[-1], roots)
        if root is not None:
            return [*path, root], True
        issuer = _issuer_of(path[-1], [presented for presented in chain if presented not in path])
        if issuer is None:
            break
        path.append(issuer)
    return path, False


def _issuer_of(certificate: x509.Certificate, candidates: Sequence[x509.Certificate]) -> x509.Certificate | None:
    for candidate in candidates:
        if candidate.subject == certificate.issuer:
            try:
                certificate.verify_directly_issued_by(candidate)
            except Exception:  # noqa: S112 - InvalidSignature, TypeError, ValueError: not this one
                continue
            return candidate
    return None


def _name(certificate: x509.Certificate) -> str:
    return _text(certificate.subject)


def _text(name: x509.Name) -> str:
    return name.rfc4514_string()[:200] or "without a name"


def _some(expected: frozenset[SpiffeId]) -> str:
    names = sorted(str(spiffe_id) for spiffe_id in expected)
    more = f" or {len(names) - 3} more" if len(names) > 3 else ""
    return " or ".join(names[:3]) + more if names else "nobody"
