"""The certificates that both kinds of pair share."""

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hbone.bench.pki import BenchPki


def test_a_leaf_chains_to_the_root_and_holds_one_spiffe_id(tmp_path: Path) -> None:
    identity = BenchPki(tmp_path / "pki").identity("shop", "cart")
    leaf, intermediate = x509.load_pem_x509_certificates(identity.chain.read_bytes())
    (root,) = x509.load_pem_x509_certificates(identity.root.read_bytes())
    leaf.verify_directly_issued_by(intermediate)
    intermediate.verify_directly_issued_by(root)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names.critical
    assert [name.value for name in names.value] == ["spiffe://cluster.local/ns/shop/sa/cart"]


def test_the_directory_is_a_plugged_in_ca_under_istio_s_names(tmp_path: Path) -> None:
    pki = BenchPki(tmp_path / "pki")
    signing, key = pki.directory / "ca-cert.pem", pki.directory / "ca-key.pem"
    chain = x509.load_pem_x509_certificates((pki.directory / "cert-chain.pem").read_bytes())
    assert chain[0] == x509.load_pem_x509_certificate(signing.read_bytes())
    assert chain[-1] == x509.load_pem_x509_certificate((pki.directory / "root-cert.pem").read_bytes())
    assert load_pem_private_key(key.read_bytes(), None).public_key() == chain[0].public_key()


def test_keys_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    pki = BenchPki(tmp_path / "pki")
    keys = [pki.directory / "ca-key.pem", pki.identity("shop", "cart").key]
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600, 0o600]
    assert pki.directory.stat().st_mode & 0o777 == 0o700
