"""JWT-SVIDs from a control plane over gRPC: a node has identities, and no key that signs tokens."""

from collections.abc import Sequence

from hbone.control.channel import Endpoint, calling, opened
from hbone.identity.spiffe import SpiffeId
from hbone.proto.jwt_grpc import JwtSvidsStub
from hbone.proto.jwt_pb2 import MintJwtRequest


class JwtClient:
    """A source of tokens (`JwtSource`). Connects for each: they are minutes apart, and kept."""

    def __init__(self, endpoint: Endpoint, *, deadline_s: float = 10.0) -> None:
        self._endpoint = endpoint
        self._deadline_s = deadline_s

    async def mint(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        """Raises Unreachable, ControlRefused: UNIMPLEMENTED by who signs none, an istiod for one."""
        request = MintJwtRequest(spiffe_id=str(identity), audiences=audience)
        async with calling(self._endpoint) as channel:
            mint = JwtSvidsStub(channel).Mint
            async with opened(mint, self._endpoint, timeout_s=self._deadline_s) as stream:
                await stream.send_message(request, end=True)
                response = await stream.recv_message()
        return response.token if response is not None else ""
