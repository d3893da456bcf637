"""`hbone.control.v1.JoinTokens`: for the user who runs the control plane, and root, on this machine."""

from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.callers import Caller, Identify
from hbone.control.lease import RegistrationRefused
from hbone.control.registry import Registry
from hbone.control.rpc import Refusal, answer, receive
from hbone.control.tokens import DEFAULT_TTL_S, TokenRecord, Tokens, TokenStoreFailed, TokenWish, wanted_identity
from hbone.errors import UsageError
from hbone.identity.spiffe import SpiffeId
from hbone.proto.tokens_grpc import JoinTokensBase
from hbone.proto.tokens_pb2 import (
    CreateTokenRequest,
    CreateTokenResponse,
    ListTokensRequest,
    ListTokensResponse,
    RevokeTokenRequest,
    RevokeTokenResponse,
    TokenView,
)
from hbone.times import WallTime

_MAX_REQUEST_BYTES = 16 * 1024


class TokenService(JoinTokensBase):
    """For one connection."""

    def __init__(self, tokens: Tokens, identify: Identify, registry: Registry) -> None:
        self._tokens = tokens
        self._registry = registry
        self._identify = identify

    async def Create(self, stream: Stream[CreateTokenRequest, CreateTokenResponse]) -> None:
        caller = await self._operator(stream)
        request = await receive(stream, CreateTokenRequest, max_bytes=_MAX_REQUEST_BYTES)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        try:
            wish = TokenWish(
                identity=self._identity(request),
                group=request.group,
                ttl_s=request.ttl_s or DEFAULT_TTL_S,
                address=request.address,
                creator=str(caller),
            )
            token, record = await self._tokens.create(wish)
        except (UsageError, RegistrationRefused) as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        except TokenStoreFailed as error:
            raise Refusal(Status.INTERNAL, error.what, why=error.why, fix=error.fix) from error
        view = _view(record, self._tokens.clock.wall())
        await answer(stream, CreateTokenResponse(token=token.encoded(), view=view, address=token.address))

    def _identity(self, request: CreateTokenRequest) -> SpiffeId:
        if request.group:
            return self._registry.member_identity(request.namespace, request.group)
        account = None if request.node else (request.namespace, request.service_account)
        return wanted_identity(self._tokens.entrance.trust_domain, account=account, node=request.node)

    async def List(self, stream: Stream[ListTokensRequest, ListTokensResponse]) -> None:
        await self._operator(stream)
        await receive(stream, ListTokensRequest, max_bytes=_MAX_REQUEST_BYTES)
        now = self._tokens.clock.wall()
        await answer(stream, ListTokensResponse(tokens=[_view(record, now) for record in await self._tokens.all()]))

    async def Revoke(self, stream: Stream[RevokeTokenRequest, RevokeTokenResponse]) -> None:
        await self._operator(stream)
        request = await receive(stream, RevokeTokenRequest, max_bytes=_MAX_REQUEST_BYTES)
        token_id = request.id if request is not None else ""
        await answer(stream, RevokeTokenResponse(revoked=await self._tokens.revoke(token_id)))

    async def _operator(
        self,
        stream: Stream[CreateTokenRequest, CreateTokenResponse]
        | Stream[ListTokensRequest, ListTokensResponse]
        | Stream[RevokeTokenRequest, RevokeTokenResponse],
    ) -> Caller:
        caller = await self._identify(stream.metadata or {})
        if not caller.holder.trusted:
            raise Refusal(
                Status.PERMISSION_DENIED,
                f"{caller} may not handle join tokens",
                fix="ask as the user who runs the control plane, on its machine",
            )
        return caller


def _view(record: TokenRecord, now: WallTime) -> TokenView:
    return TokenView(
        id=record.token_id,
        spiffe_id=record.identity,
        state=record.state(now),
        created_at=record.created_at,
        expires_at=record.expires_at,
        used_at=record.used_at or 0.0,
        creator=record.creator,
    )
