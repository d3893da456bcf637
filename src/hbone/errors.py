"""What can go wrong, in one tree.

Every error says what failed, why, and what to do about it; offending values are attributes, set by
keyword and shown nowhere but where a handler wants them. A class carries what the outside must be told:

- `flag`: the access-log and metrics response flag (the words that ztunnel uses, "-" for none);
- `status`: the status that answers a CONNECT which failed with this error;
- `exit_code`: what `hbone` exits with when the error ends a command.

Two branches say whose fault it is, as in h11: `UsageError` (the operator or our own caller broke a rule)
and `PeerViolation` (the other end of a connection did). Neither may ever print a traceback.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

from hbone.values import dataclass


class HboneError(Exception):
    """Base of all errors that hbone raises on purpose.

    `what` failed, `why` as far as known, and the `fix`: one clause each, no final full stop. Further
    keyword arguments become attributes (`error.upstream`), for handlers and for tests.
    """

    flag: ClassVar[str] = "CONNECT"
    status: ClassVar[int] = 503
    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, why: str = "", fix: str = "", **values: Any) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.__dict__.update(values)

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}; {self.fix}" if self.fix else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong with what an operator wrote.

    `file` and `line` (from 1) are None where the value did not come from a file; `field` is the path inside
    the document ("spec.ports[0].number"), empty for the document as a whole. `what` is wrong; `fix` is what
    to write instead.
    """

    what: str
    fix: str
    field: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place = f"{place}:{self.line}"
        head = ": ".join(part for part in (place, self.field, self.what) if part)
        return f"{head}; {self.fix}" if self.fix else head


class UsageError(HboneError):
    """What was asked cannot be done as asked; nothing was started."""

    exit_code = 2


class InvalidConfiguration(UsageError):
    """A configuration, manifest or set of CA files that cannot be taken; holds every problem found."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __str__(self) -> str:
        return self.what


class PeerViolation(HboneError):
    """The other end broke a rule of the protocol."""

    status = 400


class PeerRejected(PeerViolation):
    """The peer's certificate, or lack of one, was not accepted. Subclasses: `hbone.identity.verify`.

    `alert` is the TLS alert description (RFC 8446 §6) that tells the peer.
    """

    flag = "TLS_FAILURE"
    status = 503
    alert: ClassVar[int] = 42  # bad_certificate


class TlsFailure(HboneError):
    """A TLS handshake or record failed for another reason than the peer's identity."""

    flag = "TLS_FAILURE"


class TunnelFailure(HboneError):
    """An HTTP/2 connection could not be set up, or broke."""

    flag = "H2_HANDSHAKE_FAILURE"


class ConnectRefused(HboneError):
    """The far proxy answered a CONNECT with another status than 200. Attribute: `answer` (int)."""


class NoAnswer(HboneError):
    """The far proxy did not answer a CONNECT in time."""


class UpstreamFailed(HboneError):
    """An upstream connection could not be made. Attribute: `upstream`."""

    exit_code = 3


class UpstreamTimeout(UpstreamFailed):
    """An upstream did not answer in time; toward port 15008 that is most often a network policy."""

    flag = "NETWORK_POLICY"


class NoRoute(HboneError):
    """There is nowhere to send this connection: unknown name, no healthy endpoint, a loop to ourselves."""


class InvalidTarget(PeerViolation):
    """A CONNECT that is malformed, or for a workload that is not served here."""


class PolicyDenied(HboneError):
    """A policy forbids this connection."""

    flag = "DENY"
    status = 401


class IdentityUnavailable(HboneError):
    """There is no valid certificate for the identity that this connection needs."""

    flag = "IDENTITY_ERROR"


class ConnectionCut(HboneError):
    """A connection was ended on purpose before its time: drain deadline, policy change, idle limit."""


class StoreFailed(HboneError):
    """State that must survive could not be written or read; nothing of it happened."""


class Unreachable(HboneError):
    """A peer or server that a command needs could not be reached."""

    exit_code = 3
