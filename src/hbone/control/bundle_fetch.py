"""Fetching a SPIFFE bundle document from its endpoint (SPIFFE Federation §5.2), by either profile.

`https_web` is known by its host name, to roots of the web or to those that were given. `https_spiffe` is known by its
SPIFFE ID, to the bundles that are in force now: so the newest bundle of a domain vouches for the fetch of the next.
"""

import asyncio
import ssl
from pathlib import Path

from cryptography import x509

from hbone.config.urls import HttpsUrl
from hbone.control.https_get import FetchFailed, https_get
from hbone.identity.bundle import TrustBundle
from hbone.identity.spiffe import SpiffeId
from hbone.identity.verify import PeerSide, verify_peer
from hbone.times import Clock
from hbone.values import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WebEndpoint:
    """By the web's rules. `roots`: a PEM file in place of the system's."""

    url: HttpsUrl
    roots: Path | None = None

    def __str__(self) -> str:
        return str(self.url)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeEndpoint:
    """By an identity; the host name plays no part."""

    url: HttpsUrl
    identity: SpiffeId

    def __str__(self) -> str:
        return str(self.url)


Endpoint = WebEndpoint | SpiffeEndpoint


async def fetch(endpoint: Endpoint, bundle: TrustBundle, clock: Clock) -> bytes:
    """The document as it is served now. `bundle`: all that is trusted now.

    Raises FetchFailed, PeerRejected.
    """
    if isinstance(endpoint, WebEndpoint):
        return await https_get(endpoint.url, await asyncio.to_thread(_by_name, endpoint.roots))
    expected = frozenset({endpoint.identity})

    def check(chain: tuple[x509.Certificate, ...]) -> None:
        verify_peer(chain, bundle, expected=expected, side=PeerSide.SERVER, now=clock.wall())

    return await https_get(endpoint.url, _by_check(), check=check)


def _by_name(roots: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if roots is None else str(roots))
    except (OSError, ssl.SSLError) as error:
        raise FetchFailed(
            f"the roots {roots} cannot be used", why=error.strerror or str(error), fix="name a file of PEM certificates"
        ) from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _by_check() -> ssl.SSLContext:
    """Verifies nothing by itself: the web's rules (host names, the system's roots) are not SPIFFE's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
