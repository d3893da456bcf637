"""Who may use the window: programs of this machine, never a web page that the operator happens to look at.

There is no password: the listener is loopback or a Unix socket of mode 0600. A browser would carry requests of
foreign pages there all the same, in two ways, and each has its answer here:

- DNS rebinding: evil.example resolves to 127.0.0.1, and the page reads what it gets, for it is "its own" server.
  Such a request says `Host: evil.example`, so only names of loopback are answered. A browser cannot reach a Unix
  socket, and clients write there what they like: nothing is asked.
- A cross-site POST: it needs no answer to do harm. It says `Origin`, which must then be this very server.
"""

import re
from typing import Final

from hbone.admin.messages import Answer, Request, Transport, text_answer

_LOOPBACK: Final = re.compile(r"(?:localhost|127(?:\.[0-9]{1,3}){3}|\[::1\])(?::[0-9]{1,5})?")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_OWN_SITES: Final = frozenset({"same-origin", "none"})  # https://www.w3.org/TR/fetch-metadata/ §2.4


def refusal(request: Request) -> Answer | None:
    """The answer to a request that may come from a foreign page; None for all others."""
    host = request.headers.get("host", "").lower()
    if request.transport is Transport.TCP and not _LOOPBACK.fullmatch(host):
        return _forbidden(f"the Host header is {host[:100]!r}", "ask for http://localhost or http://127.0.0.1")
    if request.method in _SAFE_METHODS:
        return None
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{host}":
        return _forbidden(f"the request comes from a page of {origin[:100]!r}", "send it with curl or hbone")
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in _OWN_SITES:
        return _forbidden("the request comes from a page of another site", "send it with curl or hbone")
    return None


def _forbidden(why: str, fix: str) -> Answer:
    return text_answer(f"refused: {why}; {fix}", 403)
