"""Join tokens: a short-lived secret that gets one certificate, once.

    token = JoinToken(…); token.encoded() is what the operator carries to the new machine

A token holds all that the machine needs: where the control plane is, the fingerprint of its root (so that the very
first connection cannot be to somebody else), the identity to ask for, and the secret. The control plane keeps a hash
of the secret; 256 bits of chance need no slow hash.

Used up means: a certificate was asked for with it. The same key may ask again until the token ends, because an answer
may be lost on the way, and a certificate for that key tells nobody anything new. Any other key is refused.
"""

import hmac
import json
from collections.abc import Callable, Sequence
from dataclasses import field, replace
from hashlib import sha256
from typing import Any, Final, Protocol, Self, cast

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hbone.control.callers import Call, Caller, NotAuthenticated
from hbone.control.issue import CannotSign
from hbone.control.nodes import RESERVED, node_identity, node_of
from hbone.control.remote import Proven, RemoteRules
from hbone.control.tls_endpoint import parse_control_address
from hbone.errors import HboneError, UsageError
from hbone.identity.jwk import decode, encode
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId, TrustDomain
from hbone.identity.svid import PublicKey
from hbone.times import Clock, Rng, WallTime
from hbone.values import dataclass

PREFIX: Final = "hbone1."
SCHEME: Final = "Join"
"""Of the authorization header that shows a token's secret."""

DEFAULT_TTL_S: Final = 600.0
MAX_TTL_S: Final = 30 * 86_400.0
MAX_TOKENS: Final = 10_000

_MAX_TEXT: Final = 8192
_KEEP_ENDED_S: Final = 86_400.0  # so that `used` and `expired` can still be told from `unknown`


class InvalidJoinToken(UsageError):
    """Text that is no join token."""


class TokenStoreFailed(HboneError):
    """What is known of tokens could not be written, so none may be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What a token says. `address` is HOST:PORT of the control plane, `pin` the SHA-256 of its root certificate;
    `group` the WorkloadGroup (of the identity's namespace) that the machine is a member of, empty for none."""

    address: str
    pin: bytes
    identity: SpiffeId
    token_id: str
    secret: str = field(repr=False)
    group: str = ""

    @property
    def credential(self) -> str:
        """The value of the authorization header."""
        return f"{SCHEME} {self.token_id}.{self.secret}"

    def encoded(self) -> str:
        """The text to carry; whoever has it can join."""
        document = {
            "address": self.address,
            "pin": encode(self.pin),
            "identity": str(self.identity),
            "id": self.token_id,
            "secret": self.secret,
            **({"group": self.group} if self.group else {}),
        }
        return PREFIX + encode(json.dumps(document, separators=(",", ":")).encode())

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidJoinToken, never quoting the text."""
        fix = "copy the whole line that `hbone token create` printed"
        text = "".join(text.split())  # mail and terminals break long lines
        if not text.startswith(PREFIX) or len(text) > _MAX_TEXT:
            raise InvalidJoinToken("this is not a join token", why=f"tokens begin with {PREFIX}", fix=fix)
        try:
            document = cast("dict[str, Any]", json.loads(decode(text.removeprefix(PREFIX))))
            names = ("address", "pin", "identity", "id", "secret")
            address, pin, identity, token_id, secret = (str(document[name]) for name in names)
            found = cls(
                address=address,
                pin=decode(pin),
                identity=SpiffeId.parse(identity),
                token_id=token_id,
                secret=secret,
                group=str(document.get("group", "")),
            )
        except (ValueError, KeyError, TypeError, InvalidSpiffeId) as error:
            raise InvalidJoinToken("the join token is damaged", why="a part of it is missing", fix=fix) from error
        if len(found.pin) != sha256().digest_size:
            raise InvalidJoinToken("the join token is damaged", why="its fingerprint is too short", fix=fix)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecord:
    """What is kept of a token. `used_by`: SHA-256 of the public key that used it, empty while nobody has."""

    token_id: str
    secret_sha256: str
    identity: str
    created_at: WallTime
    expires_at: WallTime
    creator: str
    used_by: str = ""
    used_at: WallTime | None = None

    def state(self, now: WallTime) -> str:
        """`unused`, `used` or `expired`."""
        return "used" if self.used_by else "expired" if now >= self.expires_at else "unused"


class TokenStore(Protocol):
    """Where records are kept. What a call returned from is on disk; each may wait for it. Raises TokenStoreFailed."""

    async def add(self, record: TokenRecord) -> None: ...

    async def find(self, token_id: str) -> TokenRecord | None: ...

    async def use(self, token_id: str, key_sha256: str, now: WallTime) -> bool:
        """Atomically: whether the token was unused, or used by this key before; it is used by it now."""
        ...

    async def all(self) -> Sequence[TokenRecord]: ...

    async def remove(self, token_id: str) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWish:
    """A token as it is asked for: for a workload's identity, a group's, or a node's."""

    identity: SpiffeId
    group: str = ""
    ttl_s: float = DEFAULT_TTL_S
    address: str = ""
    creator: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """Where newcomers knock. `address`: HOST:PORT, empty where there is none; `pin` gives the root's SHA-256."""

    trust_domain: TrustDomain
    address: str
    pin: Callable[[], bytes]


class Tokens:
    """The tokens of one control plane."""

    def __init__(self, store: TokenStore, entrance: Entrance, clock: Clock, rng: Rng) -> None:
        self.entrance = entrance
        self.clock = clock
        self._store = store
        self._rng = rng

    async def create(self, wish: TokenWish) -> tuple[JoinToken, TokenRecord]:
        """A new one; its secret is nowhere but in what is returned. Raises UsageError, TokenStoreFailed."""
        _check(wish)
        address = wish.address or self.entrance.address
        if not address:
            raise UsageError(
                "other machines cannot reach this control plane",
                why="it listens on its Unix socket only",
                fix="start it with --control-listen ADDRESS:15012, or give --address HOST:PORT",
            )
        await self._tidy()
        secret, now = encode(self._rng.getrandbits(256).to_bytes(32, "big")), self.clock.wall()
        token = JoinToken(
            address=address,
            pin=self.entrance.pin(),
            identity=wish.identity,
            token_id=f"{self._rng.getrandbits(48):012x}",
            secret=secret,
            group=wish.group,
        )
        record = TokenRecord(
            token_id=token.token_id,
            secret_sha256=_hash(secret),
            identity=str(wish.identity),
            created_at=now,
            expires_at=WallTime(now + wish.ttl_s),
            creator=wish.creator,
        )
        await self._store.add(record)
        return token, record

    async def all(self) -> Sequence[TokenRecord]:
        return await self._store.all()

    async def revoke(self, token_id: str) -> bool:
        """Whether there was one."""
        return await self._store.remove(token_id)

    async def check(self, credential: str) -> TokenRecord:
        """The record of a secret that was shown; raises NotAuthenticated. Use follows with `redeem`."""
        token_id, _, secret = credential.partition(".")
        record = await self._store.find(token_id)
        if record is None or not hmac.compare_digest(record.secret_sha256, _hash(secret)):
            raise NotAuthenticated(
                "the join token is not known", why="it was revoked, or is of another mesh", fix="create a new one"
            )
        now = self.clock.wall()
        if now >= record.expires_at:
            ago_s = now - record.expires_at
            raise NotAuthenticated("the join token has expired", why=f"{ago_s:.0f} s ago", fix="create a new one")
        return record

    async def redeem(self, token_id: str, key: PublicKey) -> None:
        """Use it for this key; raises NotAuthenticated when another key has, CannotSign when it cannot be kept."""
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        try:
            used = await self._store.use(token_id, sha256(der).hexdigest(), self.clock.wall())
        except TokenStoreFailed as error:
            raise CannotSign(error.what, why=error.why, fix=error.fix) from error
        if not used:
            raise NotAuthenticated(
                "the join token is used up", why="each gets one certificate", fix="create one for each machine"
            )

    async def _tidy(self) -> None:
        """Forget what ended long ago; refuse to grow without bound."""
        records, now = await self._store.all(), self.clock.wall()
        for record in records:
            if now >= record.expires_at + _KEEP_ENDED_S:
                await self._store.remove(record.token_id)
        if len(records) >= MAX_TOKENS:
            raise UsageError(f"{len(records)} join tokens are open", fix="revoke some: `hbone token list`")


@dataclass(frozen=True, slots=True)
class TokenBearers:
    """Callers who show a join token."""

    tokens: Tokens
    rules: RemoteRules

    async def authenticate(self, call: Call) -> Caller | None:
        credential = call.credential(SCHEME)
        if not credential:
            return None
        try:
            record = await self.tokens.check(credential)
        except TokenStoreFailed as error:
            raise NotAuthenticated(error.what, why=error.why, fix=error.fix) from error
        token_id = record.token_id

        async def redeem(key: PublicKey) -> None:
            await self.tokens.redeem(token_id, key)

        proven = Proven(identity=SpiffeId.parse(record.identity), how=f"join token {token_id}")
        return self.rules.newcomer(proven, call.peer, redeem)


def wanted_identity(trust_domain: TrustDomain, *, account: tuple[str, str] | None, node: str) -> SpiffeId:
    """What a token is for: a workload's service account, or a node. Raises UsageError."""
    try:
        if account is None:
            return node_identity(trust_domain, node)
        return SpiffeId.for_workload(trust_domain, *account)
    except InvalidSpiffeId as error:
        raise UsageError(error.what, why=error.why, fix=error.fix) from error


def used(record: TokenRecord, key_sha256: str, now: WallTime) -> TokenRecord | None:
    """The record after its use by a key, None if that key may not use it."""
    if record.used_by:
        return record if record.used_by == key_sha256 else None
    return replace(record, used_by=key_sha256, used_at=now)


def _check(wish: TokenWish) -> None:
    if wish.address:
        parse_control_address(wish.address)
    if not 1 <= wish.ttl_s <= MAX_TTL_S:
        raise UsageError(f"a lifetime of {wish.ttl_s:g} s", fix=f"choose 1 second to {MAX_TTL_S / 86_400:g} days")
    if wish.identity.namespace in RESERVED and not node_of(wish.identity):
        raise UsageError(f"the namespace {wish.identity.namespace} is the control plane's own", fix="choose another")


def _hash(secret: str) -> str:
    return sha256(secret.encode()).hexdigest()
