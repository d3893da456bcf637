"""Addresses of documents, as settings name them."""

from typing import Self
from urllib.parse import urlsplit

from hbone.errors import UsageError
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsUrl:
    """An address of a document. `target` is path and query."""

    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises UsageError for anything but `https://HOST[:PORT][/PATH][?QUERY]` (SPIFFE Federation §5.1.1)."""
        parts = urlsplit(text)
        try:
            host, port = parts.hostname or "", parts.port or 443
        except ValueError:
            host, port = "", 0
        if parts.scheme != "https" or not host or "@" in parts.netloc or parts.fragment or not text.isascii():
            raise UsageError(f"{text[:200]!r} is not an HTTPS address", fix="write https://HOST[:PORT]/PATH")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if any(character <= " " for character in target):
            raise UsageError(f"{text[:200]!r} has a space in it", fix="write it as %20")
        return cls(host=host, port=port, target=target)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == 443 else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"https://{self.authority}{self.target}"
