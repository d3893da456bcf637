"""A CA as files: Istio's two layouts, and everything that can be wrong with them."""

from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from hbone.ca.authority import CaKeys, CertificateAuthority
from hbone.ca.material import authority_from, files_of
from hbone.errors import InvalidConfiguration
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.identity.verify import PeerSide, verify_peer
from hbone.net.clock import system_rng
from hbone.times import WallTime
from tests.support.pki import AUTHORITY, Sheet, SpiffeCA, new_key, wall_now

DOMAIN = TrustDomain("cluster.local")
CART = SpiffeId.parse("spiffe://cluster.local/ns/shop/sa/cart")
ROOT = SpiffeCA(name="root")
MIDDLE = ROOT.intermediate("middle")
OTHER = SpiffeCA(name="other")


def pem(*cas: SpiffeCA) -> bytes:
    return b"".join(ca.cert.public_bytes(Encoding.PEM) for ca in cas)


def key_pem(ca: SpiffeCA) -> bytes:
    return ca.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def plugged_in(signer: SpiffeCA = MIDDLE, **changes: Any) -> dict[str, bytes]:
    """The four files; `changes` by name with `_` for `-` and without `.pem`, None to leave one out."""
    files: dict[str, bytes | None] = {
        "ca-cert.pem": pem(signer),
        "ca-key.pem": key_pem(signer),
        "cert-chain.pem": pem(signer, ROOT),
        "root-cert.pem": pem(ROOT),
    }
    files |= {f"{name.replace('_', '-')}.pem": content for name, content in changes.items()}
    return {name: content for name, content in files.items() if content is not None}


def load(files: dict[str, bytes], later_s: float = 0) -> CertificateAuthority:
    return authority_from(files, DOMAIN, now=WallTime(wall_now() + later_s), directory="/etc/cacerts/")


def problems(files: dict[str, bytes], later_s: float = 0) -> list[str]:
    with pytest.raises(InvalidConfiguration) as caught:
        load(files, later_s)
    for problem in caught.value.problems:
        assert (problem.file or "").startswith("/etc/cacerts/")
        assert problem.what
        assert problem.fix
    return [str(problem) for problem in caught.value.problems]


def accepts(authority: CertificateAuthority) -> bool:
    issued = authority.issue(new_key().public_key(), CART, ttl_s=60, now=wall_now(), serial=1)
    return verify_peer(issued.chain, authority.bundle, expected=None, side=PeerSide.CLIENT, now=wall_now()) == CART


def test_a_plugged_in_ca_signs() -> None:
    authority = load(plugged_in())
    assert accepts(authority)
    assert authority.chain == (MIDDLE.cert,), "the root that Istio repeats in cert-chain.pem is not sent to peers"
    assert authority.roots == (ROOT.cert,)


def test_the_kubernetes_layout_is_preferred_and_signs() -> None:
    files = {"tls.crt": pem(MIDDLE), "tls.key": key_pem(MIDDLE), "ca.crt": pem(ROOT)}
    assert accepts(load(files | {"ca-cert.pem": b"left over"}))


def test_several_roots_are_all_anchors() -> None:
    authority = load(plugged_in(root_cert=pem(OTHER, ROOT)))
    assert accepts(authority)
    assert authority.roots == (OTHER.cert, ROOT.cert)


def test_intermediates_between_signer_and_root_are_kept() -> None:
    lower = MIDDLE.intermediate("lower")
    authority = load(plugged_in(lower, cert_chain=pem(lower, MIDDLE)))
    assert accepts(authority)
    assert authority.chain == (lower.cert, MIDDLE.cert)


def test_a_root_that_signs_itself_is_taken() -> None:
    authority = load(plugged_in(ROOT, cert_chain=pem(ROOT)))
    assert accepts(authority)
    assert authority.chain == ()


def test_an_intermediate_as_the_only_anchor_is_taken() -> None:
    low = MIDDLE.intermediate("low")
    assert accepts(load(plugged_in(low, cert_chain=pem(low), root_cert=pem(MIDDLE))))


def test_a_made_authority_is_read_back_as_it_was_written() -> None:
    made = CertificateAuthority.create(
        DOMAIN, CaKeys(root=new_key(), intermediate=new_key()), now=wall_now(), rng=system_rng()
    )
    files = files_of(made)
    assert sorted(files) == ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem", "root-key.pem"]
    read = authority_from(files, DOMAIN, now=wall_now())
    assert read == made
    assert files_of(read) == files
    assert accepts(read)


def test_a_root_without_its_key_is_written_without_it() -> None:
    assert "root-key.pem" not in files_of(load(plugged_in()))
    assert files_of(load(plugged_in(ROOT, cert_chain=pem(ROOT))))["cert-chain.pem"] == pem(ROOT)


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"])
def test_a_missing_file_is_named_with_those_that_are_there(name: str) -> None:
    (problem,) = problems({file: content for file, content in plugged_in().items() if file != name})
    assert f"/etc/cacerts/{name}: the file is missing" in problem
    assert "there is ca-" in problem or "there is cert-" in problem


def test_all_missing_files_are_named_at_once() -> None:
    assert len(problems({})) == 4
    assert len(problems({"tls.crt": pem(MIDDLE)})) == 2


def test_everything_that_is_wrong_is_told_at_once() -> None:
    found = problems(plugged_in(ca_key=b"no", root_cert=b"no", cert_chain=None))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("files", "file", "said"),
    [
        (plugged_in(ca_cert=b"no"), "ca-cert.pem", "no PEM certificates"),
        (plugged_in(ca_key=b"no"), "ca-key.pem", "not a PEM private key"),
        (plugged_in(ca_key=key_pem(OTHER)), "ca-key.pem", "does not belong to the certificate in ca-cert.pem"),
        (plugged_in(root_cert=pem(OTHER)), "root-cert.pem", "no root here vouches for ca-cert.pem"),
        (plugged_in(cert_chain=pem(OTHER)), "cert-chain.pem", "does not begin with the certificate of ca-cert.pem"),
        (plugged_in(MIDDLE.intermediate("low")), "root-cert.pem", "issued by O=middle"),
    ],
)
def test_files_that_do_not_match_are_named(files: dict[str, bytes], file: str, said: str) -> None:
    (problem,) = problems(files)
    assert problem.startswith(f"/etc/cacerts/{file}: ")
    assert said in problem


@pytest.mark.parametrize(
    "sheet",
    [Sheet(subject="leaf"), replace(AUTHORITY, ca=None), replace(AUTHORITY, usage=("crl_sign",))],
    ids=["a leaf", "no CA flag", "no keyCertSign"],
)
def test_a_certificate_that_may_not_sign_is_refused(sheet: Sheet) -> None:
    found = problems(plugged_in(ROOT.intermediate(sheet=sheet)))
    assert any("ca-cert.pem: the certificate is not a CA" in problem for problem in found)


def test_a_root_that_is_no_ca_is_refused() -> None:
    found = problems(plugged_in(root_cert=pem(ROOT, ROOT.intermediate("leaf", sheet=Sheet()))))
    assert found == ["/etc/cacerts/root-cert.pem: O=leaf is not a CA certificate; keep only roots in this file"]


def test_an_ended_or_future_ca_is_refused_by_its_dates_alone() -> None:
    ended = ROOT.intermediate(sheet=replace(AUTHORITY, begins_h=-2, ends_h=-1))
    found = problems(plugged_in(ended))
    assert any("ca-cert.pem: the certificate ended at" in problem for problem in found)
    (problem,) = problems(plugged_in(), later_s=-3000)
    assert "ca-cert.pem: the certificate begins at" in problem


def test_an_ended_root_is_refused() -> None:
    old = SpiffeCA(name="old", sheet=replace(AUTHORITY, ends_h=0.1))
    below = old.intermediate()
    (problem,) = problems(plugged_in(below, cert_chain=pem(below), root_cert=pem(old)), later_s=1000)
    assert "root-cert.pem: no root here vouches" in problem
    assert "not valid at validation time" in problem


def test_a_path_length_that_leaves_no_room_for_workloads_is_refused() -> None:
    narrow = SpiffeCA(name="narrow", sheet=replace(AUTHORITY, path_length=0))
    below = narrow.intermediate()
    (problem,) = problems(plugged_in(below, cert_chain=pem(below), root_cert=pem(narrow)))
    assert "O=narrow allows 0 CAs below it, there are 1" in problem


def test_no_problem_quotes_a_key() -> None:
    body = key_pem(MIDDLE).splitlines()[1].decode()
    damaged = key_pem(MIDDLE).replace(b"END PRIVATE", b"END PUBLIC")
    assert all(body not in problem for problem in problems(plugged_in(ca_key=damaged)))
