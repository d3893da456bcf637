"""Claims of a verified token, as conditions compare them."""

from collections.abc import Mapping
from typing import Final

from hbone.policy.model import PRESENT, Form, JsonValue, Pattern

SPACE_DELIMITED: Final = frozenset({"scope", "permission"})
"""Top-level claims whose text is a list with spaces between."""


def texts_at(claims: Mapping[str, JsonValue] | None, path: tuple[str, ...]) -> list[str] | None:
    """The texts of a (nested) claim; None where there is none."""
    value: JsonValue = claims
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    match value:
        case str():
            return value.split(" ") if len(path) == 1 and path[0] in SPACE_DELIMITED else [value]
        case list():
            return [item for item in value if isinstance(item, str)]
        case _:
            return None


def request_principal(claims: Mapping[str, JsonValue] | None) -> tuple[str, str] | None:
    """Issuer and subject; None unless both are there."""
    if claims is None:
        return None
    issuer, subject = claims.get("iss"), claims.get("sub")
    if isinstance(issuer, str) and isinstance(subject, str) and issuer and subject:
        return issuer, subject
    return None


def principal_fits(pattern: Pattern, principal: tuple[str, str]) -> bool:
    """Whether issuer and subject fit `issuer/subject`: split at the last slash, both halves must."""
    if pattern.form is Form.PRESENT:
        return True
    issuer, slash, subject = str(pattern).rpartition("/")
    if slash:
        return _half(issuer, principal[0]) and _half(subject, principal[1])
    if pattern.form is Form.SUFFIX:
        return principal[1].endswith(pattern.text)
    return pattern.form is Form.PREFIX and principal[0].startswith(pattern.text)


def _half(written: str, text: str) -> bool:
    pattern = Pattern.parse(written)
    match pattern.form:
        case Form.EXACT:
            return text == pattern.text
        case Form.PREFIX:
            return text.startswith(pattern.text)
        case Form.SUFFIX:
            return text.endswith(pattern.text)
        case Form.PRESENT:
            return pattern == PRESENT and bool(text)
