"""Asking the control plane of this machine for join tokens."""

from collections.abc import Sequence

from hbone.app.place import Place
from hbone.config.refs import AccountRef, WorkloadRef
from hbone.control.channel import UnixEndpoint, calling
from hbone.errors import Unreachable, UsageError
from hbone.proto.tokens_grpc import JoinTokensStub
from hbone.proto.tokens_pb2 import (
    CreateTokenRequest,
    CreateTokenResponse,
    ListTokensRequest,
    RevokeTokenRequest,
    TokenView,
)
from hbone.values import dataclass

_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A token for a workload's account, for a member of a WorkloadGroup, or for a node."""

    account: AccountRef | None
    node: str
    ttl_s: float
    group: WorkloadRef | None = None
    address: str = ""


@dataclass(frozen=True, slots=True)
class Desk:
    """Where tokens are handed out. Each call raises ControlRefused, Unreachable."""

    endpoint: UnixEndpoint

    async def create(self, wanted: Wanted) -> CreateTokenResponse:
        request = CreateTokenRequest(node=wanted.node, ttl_s=wanted.ttl_s, address=wanted.address)
        if wanted.account is not None:
            request.namespace, request.service_account = wanted.account.namespace, wanted.account.service_account
        if wanted.group is not None:
            request.namespace, request.group = wanted.group.namespace, wanted.group.name
        async with calling(self.endpoint) as channel:
            return await JoinTokensStub(channel).Create(request, timeout=_TIMEOUT_S)
        raise Unreachable(f"no answer from {self.endpoint}")

    async def all(self) -> Sequence[TokenView]:
        async with calling(self.endpoint) as channel:
            return (await JoinTokensStub(channel).List(ListTokensRequest(), timeout=_TIMEOUT_S)).tokens
        raise Unreachable(f"no answer from {self.endpoint}")

    async def revoke(self, token_id: str) -> bool:
        """Whether there was one."""
        async with calling(self.endpoint) as channel:
            response = await JoinTokensStub(channel).Revoke(RevokeTokenRequest(id=token_id), timeout=_TIMEOUT_S)
            return response.revoked
        raise Unreachable(f"no answer from {self.endpoint}")


def desk(place: Place) -> Desk:
    """That of the control plane of this machine; raises UsageError where there is none."""
    path = place.control_socket
    if not path.exists():
        raise UsageError(
            "no control plane is running here",
            why=f"nothing at {path}",
            fix="start `hbone up` or `hbone control` first",
        )
    return Desk(UnixEndpoint(path))
