"""Callers with JWTs: good ones of every kind, and every way to forge or misuse one."""

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hbone.control.ca_client import CaClient
from hbone.control.channel import ControlRefused
from hbone.control.jwks import FileKeys, UrlKeys
from hbone.control.jwt_auth import JwtRule
from hbone.discovery.model import Workload
from hbone.discovery.store import Source, Update
from hbone.errors import UsageError
from hbone.identity.jwk import PublicJwk, encode, to_jwk
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import SystemClock, new_key
from tests.support.controlplane import spiffe
from tests.support.remote import Remote, Wanted, remote

ISSUER = "https://kubernetes.default.svc"
WEB, DB = spiffe("shop", "web"), spiffe("shop", "db")
RSA = rsa.generate_private_key(65537, 2048)
EC, OTHER_EC = new_key(), new_key()
ED = ed25519.Ed25519PrivateKey.generate()
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def jwks(*keys: tuple[str, PublicJwk]) -> str:
    return json.dumps({"keys": [{**to_jwk(key), "kid": kid, "use": "sig"} for kid, key in keys]})


ALL = jwks(("rsa", RSA.public_key()), ("ec", EC.public_key()), ("ed", ED.public_key()))


def claims(**changes: Any) -> dict[str, Any]:
    """Of a Kubernetes service-account token; None takes one out."""
    now = int(SystemClock().wall())
    good = {
        "iss": ISSUER,
        "aud": ["istio-ca"],
        "sub": "system:serviceaccount:shop:web",
        "exp": now + 600,
        "nbf": now,
        "iat": now,
    }
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def signed(body: dict[str, Any], key: Key, kid: str | int | None, alg: str, **header: Any) -> str:
    head = {"alg": alg, "typ": "JWT", **({"kid": kid} if kid is not None else {}), **header}
    text = f"{encode(json.dumps(head).encode())}.{encode(json.dumps(body).encode())}"
    return f"{text}.{encode(_signature(key, text.encode()))}"


def _signature(key: Key, text: bytes) -> bytes:
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(text, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        case _:
            return key.sign(text)


def unsigned(alg: str, body: dict[str, Any] | None = None) -> str:
    head = encode(json.dumps({"alg": alg, "kid": "rsa"}).encode())
    return f"{head}.{encode(json.dumps(body or claims()).encode())}."


def with_hmac_over_the_public_key() -> str:
    """RFC 8725 §2.1: a verifier that trusts the header takes the public key for a shared secret."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head = encode(json.dumps({"alg": "HS256", "kid": "rsa"}).encode())
    text = f"{head}.{encode(json.dumps(claims()).encode())}"
    mac = hmac.HMAC(pem, hashes.SHA256())
    mac.update(text.encode())
    return f"{text}.{encode(mac.finalize())}"


def altered() -> str:
    head, body, signature = signed(claims(), EC, "ec", "ES256").split(".")
    other = encode(json.dumps(claims(sub="system:serviceaccount:shop:db")).encode())
    assert other != body
    return f"{head}.{other}.{signature}"


@pytest.fixture
def rule(tmp_path: Path) -> JwtRule:
    (tmp_path / "jwks.json").write_text(ALL)
    return JwtRule(
        issuer=ISSUER,
        audiences=frozenset({"istio-ca"}),
        keys=FileKeys(tmp_path / "jwks.json"),
        subjects={"repo:acme/shop:ref:refs/heads/main": ("shop", "web")},
    )


async def fetch(up: Remote, token: str, identity: SpiffeId = WEB) -> SpiffeId:
    credentials = await CaClient(up.endpoint(credential=f"Bearer {token}"), ttl_s=60, own=WEB).fetch(identity)
    return credentials.svid.spiffe_id


GOOD = {
    "RS256": lambda: signed(claims(), RSA, "rsa", "RS256"),
    "ES256": lambda: signed(claims(), EC, "ec", "ES256"),
    "EdDSA": lambda: signed(claims(), ED, "ed", "EdDSA"),
    "no key named": lambda: signed(claims(), EC, None, "ES256"),
    "one audience as text": lambda: signed(claims(aud="istio-ca"), EC, "ec", "ES256"),
    "another subject that is mapped": lambda: signed(
        claims(sub="repo:acme/shop:ref:refs/heads/main"), EC, "ec", "ES256"
    ),
    "a clock that is half a minute off": lambda: signed(
        claims(nbf=int(SystemClock().wall()) + 30, iat=None), EC, "ec", "ES256"
    ),
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_token_of_a_trusted_issuer_proves_its_service_account(name: str, rule: JwtRule, tmp_path: Path) -> None:
    async with remote(tmp_path, Wanted(rules=[rule])) as up:
        assert await fetch(up, GOOD[name]()) == WEB


TWINS = b'{"a":1,"a":2}'
NOW = int(SystemClock().wall())
BAD: dict[str, tuple[Any, str]] = {
    "alg none": (lambda: unsigned("none"), "algorithm 'none' is not accepted"),
    "alg None": (lambda: unsigned("None"), "algorithm 'None' is not accepted"),
    "HMAC over the public key": (with_hmac_over_the_public_key, "algorithm 'HS256' is not accepted"),
    "kid of a key of another kind": (lambda: signed(claims(), RSA, "ec", "RS256"), "does not sign with RS256"),
    "kid of another key": (lambda: signed(claims(), OTHER_EC, "ec", "ES256"), "signature is wrong"),
    "unknown kid": (lambda: signed(claims(), EC, "zzz", "ES256"), "key 'zzz' of the token's issuer is not known"),
    "kid that is no text": (lambda: signed(claims(), EC, 7, "ES256"), "key id is not text"),
    "foreign key without kid": (lambda: signed(claims(), OTHER_EC, None, "ES256"), "signature is wrong"),
    "a key in the header": (
        lambda: signed(claims(), OTHER_EC, None, "ES256", jwk=to_jwk(OTHER_EC.public_key())),
        "signature is wrong",
    ),
    "critical extension": (lambda: signed(claims(), EC, "ec", "ES256", crit=["exp"]), "critical extensions"),
    "altered claims": (altered, "signature is wrong"),
    "wrong audience": (lambda: signed(claims(aud=["vault"]), EC, "ec", "ES256"), "the token is for vault"),
    "no audience": (lambda: signed(claims(aud=None), EC, "ec", "ES256"), "the token is for nobody"),
    "wrong issuer": (lambda: signed(claims(iss="https://evil"), EC, "ec", "ES256"), "issuer 'https://evil' is not"),
    "no issuer": (lambda: signed(claims(iss=None), EC, "ec", "ES256"), "issuer 'None' is not trusted"),
    "expired": (lambda: signed(claims(exp=NOW - 3600), EC, "ec", "ES256"), "the token expired at"),
    "never expires": (lambda: signed(claims(exp=None), EC, "ec", "ES256"), "never expires"),
    "expiry that is no time": (lambda: signed(claims(exp="tomorrow"), EC, "ec", "ES256"), "`exp` is no time"),
    "from ten minutes ahead": (lambda: signed(claims(nbf=NOW + 600), EC, "ec", "ES256"), "the token begins at"),
    "no subject": (lambda: signed(claims(sub=None), EC, "ec", "ES256"), "has no subject"),
    "subject of no account": (lambda: signed(claims(sub="alice"), EC, "ec", "ES256"), "stands for no identity"),
    "subject with a slash": (
        lambda: signed(claims(sub="system:serviceaccount:shop:a/b"), EC, "ec", "ES256"),
        "is no identity",
    ),
    "a namespace of the control plane": (
        lambda: signed(claims(sub="system:serviceaccount:hbone-nodes:vm-1"), EC, "ec", "ES256"),
        "the control plane's own",
    ),
    "not a token": (lambda: "abc", "not a JWT"),
    "three parts of nothing": (lambda: "a.b.c", "not a JWT"),
    "a list": (lambda: f"{encode(b'[]')}.{encode(b'[]')}.", "not a JWT"),
    "a claim twice": (lambda: ".".join((encode(b"{}"), encode(TWINS), "")), "not a JWT"),
    "oversized": (lambda: "a" * 20_000, "a token of 20000 characters"),
    "other base64": (lambda: signed(claims(), EC, "ec", "ES256") + "==", "not a JWT"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_with_its_reason(
    name: str, rule: JwtRule, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, reason = BAD[name]
    token = make()
    async with remote(tmp_path, Wanted(rules=[rule])) as up:
        with pytest.raises(ControlRefused) as caught:
            await fetch(up, token)
    assert caught.value.code == "UNAUTHENTICATED"
    assert reason in caught.value.why
    (line,) = [record for record in caplog.records if record.message == "caller not authenticated"]
    assert reason in str(line.__dict__["why"])
    assert len(token) < 20 or token not in str(line.__dict__)


async def test_a_token_is_for_its_own_identity(rule: JwtRule, tmp_path: Path) -> None:
    async with remote(tmp_path, Wanted(rules=[rule])) as up:
        with pytest.raises(ControlRefused, match="may have its own identity only"):
            await fetch(up, GOOD["ES256"](), DB)


async def test_without_rules_tokens_are_not_taken(tmp_path: Path) -> None:
    async with remote(tmp_path) as up:
        with pytest.raises(ControlRefused, match="tokens are not accepted here"):
            await fetch(up, GOOD["ES256"]())


def ztunnel(**bound: Any) -> str:
    body = claims(sub="system:serviceaccount:istio-system:ztunnel", **{"kubernetes.io": bound})
    return signed(body, EC, "ec", "ES256")


async def test_a_ztunnel_may_impersonate_the_workloads_of_its_own_node(rule: JwtRule, tmp_path: Path) -> None:
    wanted = Wanted(rules=[rule], node_accounts=frozenset({("istio-system", "ztunnel")}))
    here = Workload(uid="a", name="db-0", namespace="shop", service_account="db", node="n1", addresses=())
    there = Workload(uid="b", name="web-0", namespace="shop", service_account="web", node="n2", addresses=())
    pod = Workload(
        uid="z", name="ztunnel-x", namespace="istio-system", service_account="ztunnel", node="n2", addresses=()
    )
    async with remote(tmp_path, wanted) as up:
        up.mesh.apply(Update(workloads=(here, there, pod)), Source.MANIFESTS)
        on_n1 = ztunnel(node={"name": "n1"}, pod={"name": "ztunnel-x"})
        assert await fetch(up, on_n1, DB) == DB
        with pytest.raises(ControlRefused, match=r"no workload of .*web is placed on node n1"):
            await impersonated(up, on_n1, WEB)
        by_pod_alone = ztunnel(pod={"name": "ztunnel-x"})  # older clusters do not name the node
        assert await impersonated(up, by_pod_alone, WEB) == WEB
        with pytest.raises(ControlRefused, match="may have its own identity only"):
            await fetch(up, ztunnel(), DB)


async def impersonated(up: Remote, token: str, identity: SpiffeId) -> SpiffeId:
    client = CaClient(up.endpoint(credential=f"Bearer {token}"), ttl_s=60)
    return (await client.fetch(identity)).svid.spiffe_id


async def test_an_account_that_is_no_nodes_may_not_impersonate(rule: JwtRule, tmp_path: Path) -> None:
    here = Workload(uid="a", name="db-0", namespace="shop", service_account="db", node="n1", addresses=())
    async with remote(tmp_path, Wanted(rules=[rule])) as up:
        up.mesh.apply(Update(workloads=(here,)), Source.MANIFESTS)
        with pytest.raises(ControlRefused, match="may have its own identity only"):
            await fetch(up, ztunnel(node={"name": "n1"}), DB)


async def test_one_issuers_keys_do_not_speak_for_another(tmp_path: Path) -> None:
    rules = [_rule(tmp_path, ISSUER, EC), _rule(tmp_path, "https://other", OTHER_EC)]
    async with remote(tmp_path, Wanted(rules=rules)) as up:
        assert await fetch(up, signed(claims(), EC, "ec", "ES256")) == WEB
        with pytest.raises(ControlRefused, match="signature is wrong"):
            await fetch(up, signed(claims(iss="https://other"), EC, "ec", "ES256"))


def _rule(directory: Path, issuer: str, key: ec.EllipticCurvePrivateKey) -> JwtRule:
    path = directory / f"{issuer.rpartition('/')[2]}.json"
    path.write_text(jwks(("ec", key.public_key())))
    return JwtRule(issuer=issuer, audiences=frozenset({"istio-ca"}), keys=FileKeys(path))


# --- where keys come from -----------------------------------------------------------------------------------------


@contextmanager
def served(answers: Sequence[tuple[int, bytes]]) -> Generator[tuple[str, list[str]]]:
    """An HTTP server that gives one answer after another, the last for ever; its URL, and the paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[min(len(asked), len(answers) - 1)]
            asked.append(self.path)
            self.send_response(status)
            if status == 302:
                self.send_header("Location", body.decode())
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/keys", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_keys_come_from_a_url_and_are_kept(tmp_path: Path) -> None:
    with served([(200, ALL.encode())]) as (url, asked):
        rule = JwtRule(issuer=ISSUER, audiences=frozenset({"istio-ca"}), keys=UrlKeys(url=url))
        async with remote(tmp_path, Wanted(rules=[rule])) as up:
            for _ in range(3):
                assert await fetch(up, GOOD["ES256"]()) == WEB
            with pytest.raises(ControlRefused, match="is not known"):
                await fetch(up, signed(claims(), EC, "zzz", "ES256"))  # a forger does not make us fetch at will
        assert len(asked) == 1


@pytest.mark.parametrize(
    "answer", [(500, b"no"), (200, b"not json"), (200, b"[]"), (200, b"x" * (2 << 20)), (302, b"http://192.0.2.1/keys")]
)
async def test_keys_that_cannot_be_had_are_said(answer: tuple[int, bytes], tmp_path: Path) -> None:
    with served([answer]) as (url, _):
        rule = JwtRule(issuer=ISSUER, audiences=frozenset({"istio-ca"}), keys=UrlKeys(url=url))
        async with remote(tmp_path, Wanted(rules=[rule])) as up:
            with pytest.raises(ControlRefused, match=r"the keys at .* cannot be had"):
                await fetch(up, GOOD["ES256"]())


@pytest.mark.parametrize("url", ["http://keys.example/jwks", "ftp://x/y", "file:///etc/keys", "https://"])
def test_keys_are_not_fetched_where_others_could_replace_them(url: str) -> None:
    with pytest.raises(UsageError, match="no safe place for keys"):
        UrlKeys(url=url)
