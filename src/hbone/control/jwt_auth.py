"""Callers who show a JWT: a Kubernetes service-account token, or one of any issuer that the operator trusts.

A rule names an issuer, the audiences that a token must be for (one of them), and where the issuer's keys are. A token
is judged by the rule of its own `iss`, so the keys of one issuer never speak for another. What it proves:

- a Kubernetes service account (`sub` is `system:serviceaccount:NAMESPACE:ACCOUNT`): that workload's identity, and for
  accounts that the operator calls nodes (a ztunnel's) also the workloads on the node that the token is bound to;
- any other subject: the identity that the rule maps it to, none if it maps it to none.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Protocol, cast

from hbone.control.callers import Call, Caller, NotAuthenticated
from hbone.control.nodes import RESERVED
from hbone.control.remote import Proven, RemoteRules
from hbone.errors import HboneError
from hbone.identity.jwk import Jwk
from hbone.identity.jws import (
    Claims,
    InvalidToken,
    SignedToken,
    UnknownKey,
    audiences,
    check_signature,
    check_times,
    parse_token,
)
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.times import Clock, Instant
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
REFRESH_S: Final = 300.0
RETRY_S: Final = 10.0  # between two looks for a key that is not known: a forger must not make us fetch at will

_SERVICE_ACCOUNT: Final = "system:serviceaccount:"


class KeysUnavailable(HboneError):
    """An issuer's keys cannot be had."""


class KeySource(Protocol):
    """Where an issuer's keys are."""

    async def fetch(self) -> Sequence[Jwk]:
        """All of them as they are now; raises KeysUnavailable."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRule:
    """One issuer. `subjects` maps what `sub` says to (namespace, service account)."""

    issuer: str
    audiences: frozenset[str]
    keys: KeySource
    subjects: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])


class IssuerKeys:
    """The keys of one issuer: fetched at first need, again when they are old or one is missing. An old set stays in
    force while no newer one can be had."""

    def __init__(self, source: KeySource, now: Callable[[], Instant]) -> None:
        self._source = source
        self._now = now
        self._keys: Sequence[Jwk] = ()
        self._fetched_at: Instant | None = None
        self._tried_at: Instant | None = None
        self._fetching = asyncio.Lock()

    async def verify(self, token: SignedToken) -> None:
        """Raises InvalidToken, KeysUnavailable."""
        await self._refresh(max_age_s=REFRESH_S)
        try:
            check_signature(token, self._keys, allowed=ALGORITHMS)
        except UnknownKey:
            if not await self._refresh(max_age_s=RETRY_S):
                raise
            check_signature(token, self._keys, allowed=ALGORITHMS)

    async def _refresh(self, *, max_age_s: float) -> bool:
        """Fetch unless what we have is younger; whether it was fetched."""
        async with self._fetching:
            now = self._now()
            if self._fetched_at is not None and now - self._fetched_at < max_age_s:
                return False
            if self._tried_at is not None and now - self._tried_at < RETRY_S:
                return self._unless_empty()
            self._tried_at = now
            try:
                self._keys = await self._source.fetch()
            except KeysUnavailable as error:
                log.warning("issuer's keys not fetched", extra={"source": str(self._source), "why": str(error)[:300]})
                return self._unless_empty(error)
            self._fetched_at = now
            return True

    def _unless_empty(self, error: KeysUnavailable | None = None) -> bool:
        if self._fetched_at is None:
            raise KeysUnavailable(
                f"the keys at {self._source} cannot be had", why=error.what if error else ""
            ) from error
        return False


class JwtBearers:
    """The authenticator. `node_accounts`: (namespace, account) of those who speak for the node they run on."""

    def __init__(
        self,
        rules: Sequence[JwtRule],
        remote: RemoteRules,
        clock: Clock,
        *,
        node_accounts: frozenset[tuple[str, str]] = frozenset(),
    ) -> None:
        self._rules = {rule.issuer: (rule, IssuerKeys(rule.keys, clock.now)) for rule in rules}
        self._remote = remote
        self._clock = clock
        self._node_accounts = node_accounts

    async def authenticate(self, call: Call) -> Caller | None:
        text = call.credential("Bearer")
        if not text:
            return None
        if not self._rules:
            raise NotAuthenticated("tokens are not accepted here", fix="give the control plane a `jwt` rule")
        try:
            token = parse_token(text)
            rule, keys = self._rule(token)
            await keys.verify(token)
            _check_claims(token.claims, rule, self._clock)
        except (InvalidToken, KeysUnavailable) as error:
            raise NotAuthenticated(error.what, why=error.why, fix=error.fix) from error
        return self._remote.caller(self._proven(token.claims, rule), call.peer)

    def _rule(self, token: SignedToken) -> tuple[JwtRule, IssuerKeys]:
        issuer = token.claims.get("iss")
        found = self._rules.get(issuer) if isinstance(issuer, str) else None
        if found is None:
            raise InvalidToken(
                f"the token's issuer {str(issuer)[:200]!r} is not trusted", fix=f"trusted: {', '.join(self._rules)}"
            )
        return found

    def _proven(self, claims: Claims, rule: JwtRule) -> Proven:
        account = _account(claims, rule)
        if account[0] in RESERVED:
            raise NotAuthenticated(f"the namespace {account[0]} is the control plane's own")
        try:
            identity = SpiffeId.for_workload(self._remote.trust_domain, *account)
        except InvalidSpiffeId as error:
            raise NotAuthenticated(f"the token's subject is no identity: {error.what}") from error
        node = self._node(claims, account) if account in self._node_accounts else ""
        return Proven(identity=identity, how="token", node=node)

    def _node(self, claims: Claims, account: tuple[str, str]) -> str:
        """The node that a bound token says it runs on; older clusters name the pod alone, which the mesh places."""
        bound = _bound(claims)
        node, pod = _name(bound, "node"), _name(bound, "pod")
        return node or (self._remote.placement.node_of_workload(account[0], pod) if pod else "")


def _check_claims(claims: Claims, rule: JwtRule, clock: Clock) -> None:
    check_times(claims, clock.wall())
    found = audiences(claims)
    if rule.audiences.isdisjoint(found):
        raise InvalidToken(
            f"the token is for {', '.join(found)[:200] or 'nobody'}",
            why=f"not for {' or '.join(sorted(rule.audiences))}",
        )


def _account(claims: Claims, rule: JwtRule) -> tuple[str, str]:
    """Raises NotAuthenticated for a subject that stands for no identity."""
    subject = claims.get("sub")
    if not isinstance(subject, str):
        raise NotAuthenticated("the token has no subject")
    mapped = rule.subjects.get(subject)
    if mapped is not None:
        return mapped
    namespace, _, account = subject.removeprefix(_SERVICE_ACCOUNT).partition(":")
    if not subject.startswith(_SERVICE_ACCOUNT) or not namespace or not account:
        raise NotAuthenticated(
            f"the token's subject {subject[:200]!r} stands for no identity",
            fix="add it to `subjects` of the issuer's rule",
        )
    return namespace, account


def _bound(claims: Claims) -> Mapping[str, Any]:
    """What a Kubernetes token is bound to."""
    value: object = claims.get("kubernetes.io")
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _name(bound: Mapping[str, Any], kind: str) -> str:
    value: object = bound.get(kind)
    name: object = cast("dict[str, Any]", value).get("name") if isinstance(value, dict) else None
    return name if isinstance(name, str) else ""
