"""Trust bundles on the wire: whole and signed, or refused."""

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from hbone.ca.crl import RevokedSerial, sign_crl
from hbone.control.jwt_svid import JwtKeys
from hbone.control.trust_resource import DomainTrust, decode
from hbone.control.trust_sink import TrustSink
from hbone.discovery.resources import InvalidResource
from hbone.discovery.xds import Update
from hbone.identity.revocation import Revocations, RevokedIdentity
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.proto.trust_pb2 import TrustBundle as Message
from hbone.times import WallTime
from tests.support.pki import SpiffeCA, new_key, wall_now

DOMAIN = TrustDomain("cluster.local")
CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
WEB = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/web")
ROOT = SpiffeCA("root")
CA = ROOT.intermediate("middle")
STRANGER = SpiffeCA("middle")  # the same name, another key
CRL = sign_crl((CA.cert, CA.key), [RevokedSerial(serial=5, at=wall_now())], number=1, now=wall_now())
ROOT_CRL = sign_crl((ROOT.cert, ROOT.key), [], number=1, now=wall_now())
FORGED = sign_crl((STRANGER.cert, STRANGER.key), [], number=1, now=wall_now())
TRUST = DomainTrust(
    domain=DOMAIN,
    roots=(ROOT.cert,),
    issuers=(CA.cert,),
    crls=(CRL, ROOT_CRL),
    revocations=Revocations.from_crls(
        [CRL, ROOT_CRL],
        {bytes(32): "keyCompromise"},
        {CART: RevokedIdentity(), WEB: RevokedIdentity(reason="superseded", before=WallTime(1_800_000_000))},
    ),
    renew=frozenset({b"leaving"}),
    sequence=7,
    jwt_keys=JwtKeys.of(DOMAIN, new_key()).known,
)


def message() -> Message:
    return TRUST.message()


def test_what_is_written_is_read_again() -> None:
    assert decode(DOMAIN, message().SerializeToString()) == TRUST


def broken() -> dict[str, tuple[Message, str]]:
    def changed(**fields: object) -> Message:
        made = message()
        for name, value in fields.items():
            made.ClearField(name)
            if isinstance(value, list):
                getattr(made, name).extend(value)
            else:
                setattr(made, name, value)
        return made

    der = Encoding.DER
    foreign = message()
    foreign.revoked_identities.add(spiffe_id="spiffe://other/ns/a/sa/b")
    short = message()
    short.revoked_keys.add(sha256=b"short")
    return {
        "another domain": (changed(trust_domain="other"), "it is about other"),
        "no domain": (changed(trust_domain=""), "is not a trust domain"),
        "no roots": (changed(roots=[]), "it has no roots; the former ones stay"),
        "a root that is none": (changed(roots=[b"garbage"]), "cannot be read"),
        "a list that is none": (changed(crls=[b"garbage"]), "cannot be read"),
        "a forged list": (changed(crls=[FORGED.public_bytes(der)]), "is not signed by a CA of ours"),
        "a list without its issuer": (changed(issuers=[]), "is not signed by a CA of ours"),
        "an issuer of another root": (
            changed(issuers=[STRANGER.cert.public_bytes(der)], crls=[FORGED.public_bytes(der)]),
            "is not signed by a CA of ours",
        ),
        "another domain's identity": (foreign, "which is of another trust domain"),
        "keys that are none": (changed(jwt_keys=b"garbage"), "its keys of JWT-SVIDs cannot be read"),
        "half a hash": (short, "has not 32 bytes"),
    }


@pytest.mark.parametrize("name", broken())
def test_what_is_not_whole_and_signed_is_refused_with_the_reason(name: str) -> None:
    made, words = broken()[name]
    with pytest.raises(InvalidResource, match=words):
        decode(DOMAIN, made.SerializeToString())


def test_garbage_is_refused() -> None:
    with pytest.raises(InvalidResource, match="cannot be read"):
        decode(DOMAIN, b"\xff\xff\xff")


async def test_a_refused_bundle_leaves_the_former_one_in_force() -> None:
    applied: list[tuple[DomainTrust, ...]] = []
    sink = TrustSink(applied.append)
    good = Update(DOMAIN, "1", message().SerializeToString())
    assert await sink.take([good], []) == []
    (reject,) = await sink.take([Update(DOMAIN, "2", b"\xff")], [])
    assert reject.name == DOMAIN
    assert reject.reason.startswith("the trust bundle cannot be read")
    assert applied == [(TRUST,)]
    assert await sink.take([], [DOMAIN]) == []
    assert applied[-1] == ()


def test_aliases_are_told_and_revoked_identities_may_be_of_them() -> None:
    old = TrustDomain("old.test")
    renamed = replace(
        TRUST,
        aliases=frozenset({old}),
        revocations=Revocations(identities={SpiffeId(old, CART.path): RevokedIdentity()}),
        crls=(),
    )
    again = decode(DOMAIN, renamed.message().SerializeToString())
    assert again == renamed
    assert again.bundle.roots == {DOMAIN: (ROOT.cert,), old: (ROOT.cert,)}
    with pytest.raises(InvalidResource, match="of another trust domain"):
        decode(DOMAIN, replace(renamed, aliases=frozenset()).message().SerializeToString())


def test_what_only_the_control_plane_needs_is_told_to_no_node() -> None:
    told = replace(TRUST, document_sequence=3)
    assert told.message() == TRUST.message()
