"""TLS alerts and OpenSSL's reasons in words: what happened, and what to do about it."""

from collections.abc import Sequence
from typing import Final

from hbone.errors import HboneError, TlsFailure
from hbone.identity.verify import NoCertificate
from hbone.values import dataclass


class PeerRefusedUs(TlsFailure):
    """The peer ended TLS with an alert. Attributes: `alert` (RFC 8446 §6), `alert_name`.

    A TLS 1.3 client may meet it on its first read: its handshake ends before the server judges its certificate.
    """


class NotTls(TlsFailure):
    """What came is not TLS at all."""


class NoCommonProtocol(TlsFailure):
    """Both speak TLS, but share no version, group, suite, or application protocol."""


class HandshakeTimeout(TlsFailure):
    """The peer did not finish the handshake by the deadline."""


class ConnectionLost(TlsFailure):
    """The connection ended without TLS's goodbye: what came so far may be cut short."""


@dataclass(frozen=True, slots=True)
class _Alert:
    number: int
    name: str  # RFC 8446 §6, in OpenSSL's spelling with blanks
    why: str
    fix: str


_OUR_CERTIFICATE = "compare `hbone get certificates` with what the peer trusts"
_ALERTS: Final = (
    _Alert(10, "unexpected message", "it did not expect what we sent", "check that both ends are current versions"),
    _Alert(20, "bad record mac", "a record was damaged on the way", "look for a middlebox that changes TLS"),
    _Alert(
        40,
        "handshake failure",
        "it found no acceptable set of parameters",
        "compare TLS versions, suites and groups of both sides",
    ),
    _Alert(42, "bad certificate", "it finds our certificate malformed, or not an SVID", _OUR_CERTIFICATE),
    _Alert(
        43,
        "unsupported certificate",
        "our certificate is of a kind, or for a use, that it does not take",
        "have it issued for serverAuth and clientAuth, with a P-256 key",
    ),
    _Alert(44, "certificate revoked", "its revocation list names our certificate", "have a new certificate issued"),
    _Alert(
        45,
        "certificate expired",
        "our certificate has ended by its clock",
        "check that ours is renewed, and both machines' clocks",
    ),
    _Alert(
        46,
        "certificate unknown",
        "it does not accept our identity here, or could not judge our certificate",
        "check which identities and trust domains the peer accepts",
    ),
    _Alert(
        47, "illegal parameter", "a field we sent was inconsistent to it", "check that both ends are current versions"
    ),
    _Alert(
        48,
        "unknown ca",
        "the peer does not trust our root",
        "add our root to the peer's trust bundle, or have our certificate issued by a CA that it trusts",
    ),
    _Alert(
        49, "access denied", "our certificate is valid but not allowed there", "check the peer's rules for our identity"
    ),
    _Alert(50, "decode error", "it could not read what we sent", "check that both ends are current versions"),
    _Alert(
        51,
        "decrypt error",
        "a signature of ours did not verify",
        "check that our chain's intermediates belong to our certificate",
    ),
    _Alert(70, "protocol version", "it does not speak TLS 1.3", "upgrade it: HBONE is TLS 1.3 only"),
    _Alert(71, "insufficient security", "our parameters are too weak for it", "compare suites and groups"),
    _Alert(80, "internal error", "it failed inside", "look at the peer's log"),
    _Alert(90, "user canceled", "it gave up", "look at the peer's log"),
    _Alert(109, "missing extension", "it misses a TLS extension of ours", "check that it is an HBONE peer"),
    _Alert(112, "unrecognized name", "it serves no such server name", "check that it is an HBONE peer"),
    _Alert(
        116,
        "certificate required",
        "it wants a client certificate and got none from us",
        "give this side a workload certificate",
    ),
    _Alert(
        120,
        "no application protocol",
        "it does not speak h2 there",
        "check that the port is the peer's HBONE port, 15008",
    ),
)
_ABOUT_US: Final = frozenset({40, 42, 43, 44, 45, 46, 48, 49, 70, 112, 116, 120})
_BY_NAME: Final = {alert.name: alert for alert in _ALERTS}
_BY_NUMBER: Final = {alert.number: alert for alert in _ALERTS}


def alert_name(number: int) -> str:
    """`unknown_ca` and the like; `alert 123` for one that is not known."""
    alert = _BY_NUMBER.get(number)
    return alert.name.replace(" ", "_") if alert else f"alert {number}"


def _refused(alert: _Alert) -> PeerRefusedUs:
    name = alert.name.replace(" ", "_")
    did = "refused us" if alert.number in _ABOUT_US else "ended TLS"
    return PeerRefusedUs(
        f"the peer {did} with the alert {name}",
        why=alert.why,
        fix=alert.fix,
        alert=alert.number,
        alert_name=name,
    )


_NOT_TLS = NotTls, "what came is not TLS", "the peer speaks another protocol on this port", "check port and protocol"
# OpenSSL's reason → our class, what, why, fix
_REASONS: Final[dict[str, tuple[type[HboneError], str, str, str]]] = {
    "http request": (
        NotTls,
        "a plain HTTP request came to the TLS port",
        "the client does not use TLS",
        "send it through the node's outbound listener, or to the workload's own port",
    ),
    "https proxy request": (
        NotTls,
        "a plain CONNECT request came to the TLS port",
        "the client takes this port for an HTTP proxy",
        "use the node's SOCKS5 and CONNECT port, or TLS",
    ),
    "wrong version number": _NOT_TLS,
    "packet length too long": _NOT_TLS,
    "bad record type": _NOT_TLS,
    "invalid record": _NOT_TLS,
    "decryption failed or bad record mac": (
        TlsFailure,
        "a TLS record was damaged",
        "it does not decrypt",
        "look for a middlebox between both ends, or broken hardware",
    ),
    "unsupported protocol": (
        NoCommonProtocol,
        "the peer does not offer TLS 1.3",
        "HBONE is TLS 1.3 only",
        "upgrade the peer, or raise its highest TLS version",
    ),
    "no shared cipher": (
        NoCommonProtocol,
        "no cipher suite in common",
        "we offer AES-GCM with TLS 1.3",
        "allow TLS_AES_128_GCM_SHA256 or TLS_AES_256_GCM_SHA384 on the peer",
    ),
    "no suitable groups": (
        NoCommonProtocol,
        "no key exchange group in common",
        "one side is limited, for example to X25519MLKEM768",
        "allow a common group on both sides",
    ),
    "no application protocol": (
        NoCommonProtocol,
        "the client does not offer h2",
        "HBONE is HTTP/2 over TLS, agreed on by ALPN",
        "check that the client is an HBONE proxy",
    ),
    "peer did not return a certificate": (
        NoCertificate,
        "the client presented no certificate",
        "a tunnel needs mutual TLS",
        "give it a workload certificate, or use the plaintext port",
    ),
    "bad signature": (
        TlsFailure,
        "the peer's handshake signature is wrong",
        "it does not own its certificate's key",
        "check the peer's key and certificate files",
    ),
}
_REASONS["no suitable key share"] = _REASONS["no suitable groups"]


def failure_from(reasons: Sequence[str]) -> HboneError:
    """The error for OpenSSL's error queue, oldest first: TlsFailure, or PeerRejected for a missing certificate."""
    for reason in reasons:
        _, alerted, name = reason.partition(" alert ")  # "tlsv1 alert unknown ca", "ssl/tls alert bad certificate"
        alert = _BY_NAME.get(name.removesuffix(" number").strip()) if alerted else None
        if alert:
            return _refused(alert)
    for reason in reasons:
        if reason in _REASONS:
            kind, what, why, fix = _REASONS[reason]
            return kind(what, why=why, fix=fix, reasons=tuple(reasons))
    if "unexpected eof while reading" in reasons:
        return lost("the connection ended without a TLS goodbye")
    if not reasons:
        return lost("it had failed before")
    return TlsFailure("TLS failed", why=", ".join(reasons), fix="look at the peer's log", reasons=tuple(reasons))


def lost(why: str) -> ConnectionLost:
    return ConnectionLost(
        "the peer dropped the TLS connection",
        why=why,
        fix="look at the peer's log: it was stopped, was cut off, or refused us without saying so",
    )
