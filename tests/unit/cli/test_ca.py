"""`hbone ca` and `hbone cert list|revoke|restore` on a state directory without a control plane."""

import asyncio
import json
import re
import sqlite3
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509

from hbone.cli.administration import steps_of
from hbone.cli.failures import main
from hbone.control import federated_rows
from hbone.control.caplane import DATABASE, CaPlace, CaPlane
from hbone.control.federated_rows import BundleRow
from hbone.control.issue import Issuer
from hbone.control.local_ca import LocalCa
from hbone.identity.bundle import BundleDocument
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import SystemClock, system_rng
from hbone.proto.admin_pb2 import CaStatusResponse, Rotation
from hbone.times import WallTime
from tests.support.cafiles import whole_ca
from tests.support.pki import SpiffeCA

DOMAIN = TrustDomain("example.org")
CART = SpiffeId.for_workload(DOMAIN, "shop", "cart")
WEB = SpiffeId.for_workload(DOMAIN, "shop", "web")


async def issue(directory: Path) -> list[str]:
    place = CaPlace(directory=directory, trust_domain=DOMAIN, clock=SystemClock(), rng=system_rng())
    async with await CaPlane.open(place) as ca:
        issuer = Issuer(lambda: ca.authorities.signing, clock=SystemClock(), rng=system_rng(), ledger=ca.ledger)
        source = LocalCa(issuer)
        return [f"{(await source.fetch(identity)).svid.serial:x}" for identity in (CART, WEB)]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HBONE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("HBONE_SOCKET", raising=False)
    return tmp_path / "state"


@pytest.fixture
def serials(state: Path) -> list[str]:
    """Of shop/cart and shop/web."""
    return asyncio.run(issue(state))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, standard output, standard error)"""
    code = main([str(argument) for argument in arguments], {})
    done = capsys.readouterr()
    return code, done.out, done.err


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("command", [["ca", "status"], ["cert", "list"], ["cert", "revoke", "abc"], ["ca", "audit"]])
def test_without_a_ca_the_remedy_is_said(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, error = run(capsys, *command)
    assert (code, out) == (2, "")
    assert "there is no CA here" in error
    assert "start `hbone up`, or name its --state-dir" in error


@pytest.mark.usefixtures("serials")
def test_status_shows_authorities_and_what_is_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "ca", "status")
    assert code == 0
    assert re.search(r"trust domain +example\.org", out)
    assert re.search(r"rotation +none", out)
    assert re.search(r"certificates +2 in use", out)
    assert re.search(r"1  active  CN=hbone intermediate \w+,O=example.org +36\d\dd\w* +CN=hbone root", out)
    code, out, _ = run(capsys, "ca", "status", "-o", "json")
    found = json.loads(out)
    assert found["rotation"] == {"phase": "none", "waiting": [], "paused": False}
    assert found["authorities"][0]["certificates_in_use"] == 2
    assert found["authorities"][0]["since"].endswith("Z")


def test_certificates_are_listed_revoked_and_restored(serials: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    cart, web = serials
    code, out, _ = run(capsys, "cert", "list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["SERIAL", web, cart]
    code, out, _ = run(capsys, "cert", "list", "--as", "shop/cart", "-o", "json")
    (one,) = json.loads(out)
    assert (one["serial"], one["spiffe_id"], one["state"], one["revoked_at"]) == (cart, str(CART), "in use", None)

    code, out, _ = run(capsys, "cert", "revoke", cart, "--reason", "keyCompromise")
    assert code == 0
    assert out.startswith(f"revoked: certificate {cart} of {CART}\n")
    assert "nodes are told when `hbone up` is started" in out
    code, out, error = run(capsys, "cert", "revoke", "shop/web")
    assert error == ""
    assert f"revoked: the identity {WEB}" in out
    code, out, _ = run(capsys, "cert", "revoke", "--key", one["key_sha256"])
    assert code == 0
    code, out, _ = run(capsys, "cert", "list", "--revoked", "-o", "json")
    assert {entry["serial"]: entry["reason"] for entry in json.loads(out)} == {
        cart: "keyCompromise",
        web: "unspecified",
    }
    code, out, _ = run(capsys, "cert", "restore", WEB)
    assert "may have certificates again" in out


@pytest.mark.usefixtures("serials")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give either a serial number or identity, or --key HASH"),
        (["abc", "--key", "ab"], "give either a serial number or identity, or --key HASH"),
        (["abc"], "has issued no certificate with serial number abc"),
        (["hello"], "'hello' is no serial number"),
        (["shop/"], "shop/"),
        (["spiffe://Bad/x"], "is not a trust domain"),
        (["--key", "abc"], "is no SHA-256 of a public key"),
        (["abc", "--reason", "boredom"], "boredom"),
    ],
)
def test_what_cannot_be_revoked_is_a_usage_error(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = run(capsys, "cert", "revoke", *arguments)
    assert code == 2
    assert words in error


@pytest.mark.usefixtures("serials")
def test_the_intermediate_is_rotated_and_a_rotation_of_the_root_waits_for_a_control_plane(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, _ = run(capsys, "ca", "rotate-intermediate")
    assert (code, out.startswith("authority 2 signs: CN=hbone intermediate")) == (0, True)
    code, out, _ = run(capsys, "ca", "rotate-root")
    assert out.splitlines() == ["prepared", "no control plane runs: the rotation goes on when `hbone up` is started"]
    code, _, error = run(capsys, "ca", "rotate-intermediate")
    assert code == 2
    assert "the root is being rotated" in error
    code, out, _ = run(capsys, "ca", "rotate-root", "--back")
    assert out.startswith("done: CN=hbone root")
    code, _, error = run(capsys, "ca", "rotate-root", "--back")
    assert (code, "no rotation is under way" in error) == (2, True)
    code, _, error = run(capsys, "ca", "rotate-root", "--recover")
    assert (code, "there is nothing to recover from" in error) == (2, True)


def test_the_bundle_is_exported_in_three_forms(
    state: Path, serials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "cert", "revoke", serials[0])
    _, pem, error = run(capsys, "ca", "export-bundle")
    assert error == ""
    assert pem == (state / "ca" / "root-cert.pem").read_text()
    _, spiffe, _ = run(capsys, "ca", "export-bundle", "-o", "spiffe")
    assert json.loads(spiffe)["spiffe_sequence"] > 0
    _, crl, _ = run(capsys, "ca", "export-bundle", "-o", "crl")
    lists = [x509.load_pem_x509_crl(f"{part}-----END X509 CRL-----".encode()) for part in _parts(crl)]
    assert [[f"{entry.serial_number:x}" for entry in one] for one in lists] == [[serials[0]], []]


@pytest.mark.usefixtures("serials")
def test_bundle_show_is_the_document_that_others_fetch(capsys: pytest.CaptureFixture[str]) -> None:
    _, shown, _ = run(capsys, "bundle", "show", "-o", "spiffe")
    assert shown == run(capsys, "ca", "export-bundle", "-o", "spiffe")[1]
    document = BundleDocument.from_json(shown)
    assert (len(document.roots), len(document.jwt_keys), document.sequence) == (1, 1, 1)
    assert DOMAIN in run(capsys, "bundle", "show")[1]


@pytest.mark.usefixtures("serials")
def test_other_trust_domains_are_shown_with_number_and_age(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = SpiffeCA(name="their root").cert
    bundles = {
        "east.test": BundleDocument(roots=(root,), sequence=41),
        "empty.test": BundleDocument(roots=()),
    }
    with closing(sqlite3.connect(state / DATABASE)) as database, database:
        for name, document in bundles.items():
            row = BundleRow(
                domain=TrustDomain(name),
                document=document.to_json(),
                taken_at=WallTime(SystemClock().wall() - 3700),
                file_sha256="",
            )
            federated_rows.put(database, row)
    code, out, _ = run(capsys, "ca", "status")
    assert code == 0
    assert re.search(r"FEDERATED +BUNDLE +ROOTS +JWT KEYS +AGE +SEEN +NEXT LOOK +FROM", out)
    assert re.search(r"east\.test +41 +1 +0 +1h1m", out)
    assert re.search(r"empty\.test +without number +0 +0", out)
    assert "the bundle of empty.test has no roots: nobody of that trust domain is accepted" in out
    found = json.loads(run(capsys, "ca", "status", "-o", "json")[1])["federated"]
    assert [(one["trust_domain"], one["roots"], one["error"]) for one in found] == [
        ("east.test", 1, ""),
        ("empty.test", 0, ""),
    ]
    assert found[0]["taken_at"].endswith("Z")
    assert "their root" in run(capsys, "bundle", "show", "--trust-domain", "east.test")[1]
    code, _, error = run(capsys, "bundle", "show", "--trust-domain", "west.test")
    assert (code, "no bundle of trust domain west.test is known here" in error) == (2, True)


def _parts(text: str) -> list[str]:
    return [part for part in text.split("-----END X509 CRL-----") if part.strip()]


def test_the_audit_log_is_whole_or_the_first_fault_is_named(
    state: Path, serials: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "ca", "audit")
    events = [json.loads(line) for line in out.splitlines()]
    assert [one["event"] for one in events] == ["ca created", "issued", "issued"]
    assert [one["serial"] for one in events[1:]] == serials
    assert out == (state / "audit.jsonl").read_text()
    code, out, _ = run(capsys, "ca", "audit", "--check")
    assert (code, out) == (0, "whole: no line was altered or taken out\n")
    with sqlite3.connect(state / "control.db") as database:
        database.execute("DROP TRIGGER audit_is_never_changed")
        database.execute("UPDATE audit SET line = '{}' WHERE number = 2")
    database.close()
    code, _, error = run(capsys, "ca", "audit", "--check")
    assert (code, error) == (1, "not whole: line 2 was altered, or is missing\n")


def test_a_ca_is_imported_from_a_directory(
    serials: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del serials
    whole_ca(tmp_path / "other")
    code, out, _ = run(capsys, "ca", "import", tmp_path / "other")
    assert code == 0
    assert out.startswith("authority 2 is prepared: CN=hbone intermediate")
    (tmp_path / "empty").mkdir()
    code, _, error = run(capsys, "ca", "import", tmp_path / "empty")
    assert code == 2
    assert "ca-cert.pem: the file is missing" in error


async def test_a_rotation_that_is_watched_says_a_countdown_once() -> None:
    async def seen() -> AsyncGenerator[CaStatusResponse]:
        for left_s in (900, 899):
            await asyncio.sleep(0)
            yield _waiting("published", f"others have not had the time to see it ({left_s} s more)")
        yield _waiting("activated", "2 certificates of the old root still in use")
        yield _waiting("activated", "1 certificate of the old root still in use")
        yield _waiting("none")

    found = [(one.rotation.phase, *one.rotation.waiting) async for one in steps_of(seen())]
    assert found == [
        ("published", "others have not had the time to see it (900 s more)"),
        ("activated", "2 certificates of the old root still in use"),
        ("activated", "1 certificate of the old root still in use"),
        ("none",),
    ]


def _waiting(phase: str, *reasons: str) -> CaStatusResponse:
    return CaStatusResponse(rotation=Rotation(phase=phase, waiting=reasons))
