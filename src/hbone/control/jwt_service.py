"""`hbone.control.v1.JwtSvids`: tokens for workloads of nodes, whose certificates the same caller may have."""

from typing import Final

from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.ca_service import IssueLimits
from hbone.control.callers import Identify
from hbone.control.issue import CannotSign, NotEntitled
from hbone.control.jwt_mint import JwtMinter
from hbone.control.jwt_svid import InvalidJwtSvid
from hbone.control.rpc import Refusal, answer, receive
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.proto.jwt_grpc import JwtSvidsBase
from hbone.proto.jwt_pb2 import MintJwtRequest, MintJwtResponse

_MAX_REQUEST_BYTES: Final = 64 * 1024


class JwtService(JwtSvidsBase):
    """For one connection. `limits` are apart from those of certificates: tokens are asked for more often."""

    def __init__(self, minter: JwtMinter, identify: Identify, limits: IssueLimits | None = None) -> None:
        self._minter = minter
        self._identify = identify
        self._limits = limits

    async def Mint(self, stream: Stream[MintJwtRequest, MintJwtResponse]) -> None:
        request = await receive(stream, MintJwtRequest, max_bytes=_MAX_REQUEST_BYTES)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        caller = await self._identify(stream.metadata or {})
        if self._limits is not None:
            self._limits.check(caller)
        if caller.redeem is not None:
            fix = "get a certificate with it first, and show that"
            raise Refusal(Status.PERMISSION_DENIED, f"{caller} may have a certificate and nothing else", fix=fix)
        try:
            identity = SpiffeId.parse(request.spiffe_id)
            token = await self._minter.mint(identity, request.audiences, caller=str(caller), refusal=caller.refusal)
        except NotEntitled as error:
            raise Refusal(Status.PERMISSION_DENIED, error.what, why=error.why, fix=error.fix) from error
        except (InvalidJwtSvid, InvalidSpiffeId) as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        except CannotSign as error:
            raise Refusal(Status.INTERNAL, error.what, why=error.why, fix=error.fix) from error
        await answer(stream, MintJwtResponse(token=token))
