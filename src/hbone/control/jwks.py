"""Issuers' keys from a file or a URL."""

import asyncio
import ssl
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from ipaddress import ip_address
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hbone.control.jwt_auth import KeysUnavailable
from hbone.errors import UsageError
from hbone.identity.jwk import InvalidKeySet, Jwk, parse_key_set
from hbone.values import dataclass

MAX_BYTES: Final = 1 << 20
TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class FileKeys:
    """A JWK set in a file, read each time: whoever rotates the keys replaces it."""

    path: Path

    async def fetch(self) -> Sequence[Jwk]:
        try:
            return parse_key_set(await asyncio.to_thread(self.path.read_bytes))
        except OSError as error:
            raise KeysUnavailable(f"{self.path} cannot be read", why=error.strerror or str(error)) from error
        except InvalidKeySet as error:
            raise KeysUnavailable(error.what, why=error.why, fix=error.fix) from error

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlKeys:
    """A JWK set behind HTTPS (plain HTTP on loopback only). `roots`: a PEM file instead of the system's roots."""

    url: str
    roots: Path | None = None

    def __post_init__(self) -> None:
        if not _is_safe(self.url):
            raise UsageError(
                f"{self.url[:200]!r} is no safe place for keys",
                why="whoever is on the way could replace them",
                fix="write an https:// URL",
            )

    async def fetch(self) -> Sequence[Jwk]:
        return await asyncio.to_thread(self._fetch)

    def _fetch(self) -> Sequence[Jwk]:
        try:
            context = ssl.create_default_context(cafile=str(self.roots) if self.roots is not None else None)
            opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _SafeRedirects())
            with opener.open(self.url, timeout=TIMEOUT_S) as answer:
                body: bytes = answer.read(MAX_BYTES + 1)
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
            raise KeysUnavailable(f"{self.url} does not answer with keys", why=str(error)[:200]) from error
        if len(body) > MAX_BYTES:
            raise KeysUnavailable(f"{self.url} answers with more than {MAX_BYTES} bytes")
        try:
            return parse_key_set(body)
        except InvalidKeySet as error:
            raise KeysUnavailable(error.what, why=error.why, fix=error.fix) from error

    def __str__(self) -> str:
        return self.url


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]  # noqa: PLR0917
        if not _is_safe(newurl):
            raise urllib.error.URLError("it leads to a place that is not safe for keys")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_safe(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "https":
        return bool(parts.hostname)
    try:
        return parts.scheme == "http" and ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
