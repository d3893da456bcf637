"""The rules of a RequestAuthentication: which tokens are taken. Validated here, used by a proxy that reads requests."""

import re
from typing import Final
from urllib.parse import urlsplit

from hbone.documents.document import read_documents
from hbone.documents.fields import Section, shown
from hbone.errors import Problem
from hbone.policy.manifests import JwtRule, TokenHeader

DEFAULT_TIMEOUT_S: Final = 5.0
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_UNITS_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def read_request_authentication(spec: Section) -> tuple[JwtRule, ...]:
    """`spec.jwtRules`; problems for what is wrong in them."""
    return tuple(_rule(section) for section in spec.sections("jwtRules"))


def _rule(section: Section) -> JwtRule:
    issuer, uri = section.text("issuer"), section.text("jwksUri")
    if not issuer and not uri:
        section.problem((), "neither issuer nor jwksUri", "write issuer: https://issuer.example")
    if uri and urlsplit(uri).scheme not in {"http", "https"}:
        section.problem("jwksUri", f"{shown(uri)} is not a URL", "write https://issuer.example/keys")
    if uri and section.text("jwks"):
        section.problem("jwks", "stands beside jwksUri", "keep one of them")
    rule = JwtRule(
        issuer=issuer,
        audiences=_texts(section, "audiences"),
        jwks_uri=uri,
        jwks=_jwks(section),
        from_headers=tuple(_header(inner) for inner in section.sections("fromHeaders")),
        from_params=_texts(section, "fromParams"),
        from_cookies=_texts(section, "fromCookies"),
        output_payload_to_header=section.text("outputPayloadToHeader"),
        forward_original_token=section.flag("forwardOriginalToken"),
        output_claim_to_headers=tuple(_claim(inner) for inner in section.sections("outputClaimToHeaders")),
        timeout_s=_timeout_s(section),
        space_delimited_claims=_texts(section, "spaceDelimitedClaims"),
    )
    section.finish()
    return rule


def _texts(section: Section, key: str) -> tuple[str, ...]:
    for path, text in section.texts(key):
        if not text:
            section.problem(path, "is empty", "write a value, or remove it")
    return tuple(text for _, text in section.texts(key) if text)


def _header(section: Section) -> TokenHeader:
    header = TokenHeader(name=section.required_text("name", "x-token") or "", prefix=section.text("prefix"))
    section.finish()
    return header


def _claim(section: Section) -> tuple[str, str]:
    pair = section.required_text("header", "x-user") or "", section.required_text("claim", "sub") or ""
    section.finish()
    return pair


def _jwks(section: Section) -> str:
    """The key set; a JSON object with a list of keys."""
    text = section.text("jwks")
    if not text:
        return ""
    problems: list[Problem] = []
    documents = read_documents("jwks", text, problems)
    value = documents[0].value if documents and not problems else None
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        section.problem("jwks", "is not a JSON Web Key Set", 'write {"keys": [{"kty": "EC", …}]}')
        return ""
    return text


def _timeout_s(section: Section) -> float:
    text = section.text("timeout")
    if not text:
        return DEFAULT_TIMEOUT_S
    found = _DURATION.fullmatch(text)
    if found is None:
        section.problem("timeout", f"{shown(text)} is not a duration", "write 5s")
        return DEFAULT_TIMEOUT_S
    return float(found[1]) * _UNITS_S[found[2]]
