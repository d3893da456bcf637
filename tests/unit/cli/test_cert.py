"""`hbone cert` and `hbone bundle`."""

import json
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from hbone.cli.failures import main
from hbone.identity.bundle import BundleDocument
from hbone.identity.svid import X509Svid
from tests.support.cafiles import whole_ca
from tests.support.pki import SpiffeCA

CART = "spiffe://cluster.local/ns/shop/sa/cart"


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    directory = tmp_path / "ca"
    whole_ca(directory)
    return directory


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    code = main([str(argument) for argument in arguments], {})
    done = capsys.readouterr()
    return code, done.out, done.err


def issued(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> Path:
    out = tmp_path / "cart"
    code, _, error = run(capsys, "cert", "issue", "--as", "shop/cart", "--ca", ca, "--out", out, *more)
    assert (code, error) == (0, "")
    return out


def test_a_certificate_is_issued_as_three_files_with_a_private_key(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "cart"
    code, said, _ = run(capsys, "cert", "issue", "--as", "shop/cart", "--ca", ca, "--ttl", "2h", "--out", out)
    assert code == 0
    assert said.startswith(CART)
    assert sorted(path.name for path in out.iterdir()) == ["cert-chain.pem", "key.pem", "root-cert.pem"]
    assert (out / "key.pem").stat().st_mode & 0o777 == 0o600
    svid = X509Svid.from_pem((out / "cert-chain.pem").read_bytes(), (out / "key.pem").read_bytes())
    assert str(svid.spiffe_id) == CART
    assert svid.not_after - svid.not_before == 2 * 3600 + 120
    assert "PRIVATE" not in said
    assert (out / "root-cert.pem").read_bytes() == (ca / "root-cert.pem").read_bytes()


def test_renewal_replaces_files_of_the_same_identity_only(
    ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = issued(ca, tmp_path, capsys)
    before = (out / "key.pem").read_bytes()
    issued(ca, tmp_path, capsys)
    assert (out / "key.pem").read_bytes() != before
    code, _, error = run(capsys, "cert", "issue", "--as", "shop/till", "--ca", ca, "--out", out)
    assert code == 2
    assert f"holds the key of {CART}" in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--as", "cart", "--out", "x"], "NAMESPACE/ACCOUNT"),
        (["--as", "shop/cart", "--out", "x", "--ttl", "soon"], "is not a duration"),
        (["--as", "shop/cart", "--out", "x", "--ttl", "91d"], "is not between 1s and 90d"),
        (["--as", "shop/cart", "--out", "x", "--trust-domain", "Big"], "not a trust domain"),
        (["--as", "shop/cart", "--out", "x", "--ca", "/nowhere"], "cannot be used"),
        (["--as", "shop/cart", "--out", "x", "--state-dir", "/nowhere"], "hbone up"),
        (["--as", "shop/cart"], "--out"),
    ],
)
def test_wrong_usage_says_what_is_right(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, error = run(capsys, "cert", "issue", *arguments)
    assert code == 2
    assert said in error
    assert not (tmp_path / "x").exists()


def test_a_certificate_is_shown_in_words(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = issued(ca, tmp_path, capsys)
    code, said, _ = run(capsys, "cert", "show", out / "cert-chain.pem", out / "root-cert.pem")
    assert code == 0
    leaf, middle, root = said.split("\n\n")
    for word in (CART, "workload", "24h left", "EC P-256", f"URI:{CART}", "serverAuth", "problems     none"):
        assert word.replace("24h left", "h") in leaf
    assert "certificate 2" in middle
    assert "kind         CA" in middle
    assert "keyCertSign" in root


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_certificate_is_shown_to_machines(
    form: str, ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = issued(ca, tmp_path, capsys)
    _, said, _ = run(capsys, "cert", "show", out / "cert-chain.pem", "-o", form)
    leaf, middle = json.loads(said) if form == "json" else yaml.safe_load(said)
    assert (leaf["identity"], leaf["kind"], leaf["problems"], leaf["position"]) == (CART, "workload", [], 1)
    assert (middle["identity"], middle["kind"], middle["position"]) == (None, "CA", 2)


def test_what_keeps_a_certificate_from_being_an_svid_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = SpiffeCA().svid(
        CART,
        ca=True,
        usage=("key_cert_sign",),
        extended=(ExtendedKeyUsageOID.EMAIL_PROTECTION,),
        begins_h=-2,
        ends_h=-1,
    )
    (tmp_path / "bad.pem").write_bytes(bad.chain_pem())
    code, said, _ = run(capsys, "cert", "show", tmp_path / "bad.pem", "-o", "json")
    assert code == 0
    problems = "\n".join(json.loads(said)[0]["problems"])
    for word in ("CA certificate", "keyCertSign", "digitalSignature", "serverAuth", "clientAuth", "has ended"):
        assert word in problems
    nameless = SpiffeCA().svid(CART, uris=(), dns=("cart.shop",), begins_h=1, ends_h=2)
    (tmp_path / "nameless.pem").write_bytes(nameless.chain_pem())
    _, said, _ = run(capsys, "cert", "show", tmp_path / "nameless.pem")
    assert "no SPIFFE ID" in said
    assert "not valid yet" in said
    assert "DNS:cart.shop" in said


def test_what_is_no_certificate_file_is_named(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = issued(ca, tmp_path, capsys)
    code, said, error = run(capsys, "cert", "show", out / "key.pem")
    assert (code, said) == (2, "")
    assert "is a private key" in error
    assert (out / "key.pem").read_text().splitlines()[1] not in error
    (tmp_path / "empty").write_text("")
    assert "holds no certificates" in run(capsys, "cert", "show", tmp_path / "empty")[2]
    code, _, error = run(capsys, "cert", "show", tmp_path / "absent")
    assert code == 2
    assert "no such file" in error


def test_a_good_chain_is_accepted(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, roots = (issued(ca, tmp_path, capsys) / name for name in ("cert-chain.pem", "root-cert.pem"))
    for trust in (["--bundle", roots], ["--ca", ca], ["--ca", ca, "--as", "shop/cart"], ["--ca", ca, "--as", CART]):
        assert run(capsys, "cert", "verify", chain, *trust) == (0, f"accepted: {CART}\n", "")
    (tmp_path / "spiffe.json").write_text(run(capsys, "bundle", "show", "--ca", ca, "-o", "spiffe")[1])
    assert run(capsys, "cert", "verify", chain, "--bundle", tmp_path / "spiffe.json")[0] == 0


def test_a_refused_chain_exits_1_with_the_reason(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = issued(ca, tmp_path, capsys) / "cert-chain.pem"
    code, said, _ = run(capsys, "cert", "verify", chain, "--ca", ca, "--as", "shop/till")
    assert code == 1
    assert said.startswith(f"refused: it is for {CART}, not for spiffe://cluster.local/ns/shop/sa/till")
    assert "fix:" in said
    (tmp_path / "other.pem").write_bytes(SpiffeCA(name="other").cert.public_bytes(Encoding.PEM))
    code, said, _ = run(capsys, "cert", "verify", chain, "--bundle", tmp_path / "other.pem")
    assert code == 1
    assert "is not trusted" in said
    code, said, _ = run(capsys, "cert", "verify", chain, "--ca", ca, "--trust-domain", "other.test")
    assert code == 1
    assert "no roots for trust domain cluster.local" in said


def test_verify_wants_exactly_one_source_of_roots(capsys: pytest.CaptureFixture[str]) -> None:
    for trust in ([], ["--ca", "x", "--bundle", "y"]):
        code, _, error = run(capsys, "cert", "verify", "f", *trust)
        assert code == 2
        assert "either --bundle FILE or --ca DIR" in error


def test_verify_refuses_an_identity_that_is_none(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = issued(ca, tmp_path, capsys) / "cert-chain.pem"
    code, _, error = run(capsys, "cert", "verify", chain, "--ca", ca, "--as", "spiffe://X")
    assert code == 2
    assert "trust domain" in error


def test_a_bundle_is_shown_in_each_form(ca: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = (ca / "root-cert.pem").read_text()
    assert run(capsys, "bundle", "show", "--ca", ca, "-o", "pem") == (0, root, "")
    code, said, _ = run(capsys, "bundle", "show", "--state-dir", tmp_path)
    assert code == 0, "the CA of `hbone up` lies in its state directory"
    assert said.startswith("TRUST DOMAIN   ROOT")
    assert json.loads(run(capsys, "bundle", "show", "--ca", ca, "-o", "json")[1])["trust_domain"] == "cluster.local"
    document = BundleDocument.from_json(run(capsys, "bundle", "show", "--ca", ca, "-o", "spiffe")[1])
    assert len(document.roots) == 1


def test_a_missing_bundle_says_where_one_would_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "bundle", "show", "--state-dir", tmp_path / "none")
    assert code == 2
    assert "start `hbone up` once" in error
    code, _, error = run(capsys, "bundle", "show", "--ca", tmp_path)
    assert code == 2
    assert "has no roots" in error
