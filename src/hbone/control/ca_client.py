"""Certificates from a CA over gRPC: Istio's `CreateCertificate`, with a key that is made here and stays here."""

from collections.abc import Sequence

from hbone.ca.csr import new_request
from hbone.control.channel import Endpoint, calling, opened
from hbone.control.credentials import Credentials, credentials_from
from hbone.identity.spiffe import SpiffeId
from hbone.net.clock import new_key
from hbone.proto.citadel_grpc import IstioCertificateServiceStub
from hbone.proto.citadel_pb2 import IstioCertificateRequest

IMPERSONATED = "ImpersonatedIdentity"
HOLDER = "HboneHolder"


class CaClient:
    """A source of certificates (`SvidSource`). Connects for each request: they are hours apart, and the CA may be
    another one by then."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        ttl_s: float,
        deadline_s: float = 20.0,
        holder: str = "",
        own: SpiffeId | None = None,
    ) -> None:
        """`holder`: what the CA is to know us by, so that it sees which of our certificates are still in use; only
        for who also subscribes to trust bundles under that name. `own`: the identity that we prove to have when we
        call; it is asked for without impersonation, which an istiod would refuse."""
        self.endpoint = endpoint
        self._ttl_s = ttl_s
        self._deadline_s = deadline_s
        self._holder = holder
        self._own = own

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        """Raises Unreachable, ControlRefused, or InvalidAnswer."""
        key = new_key()
        request = IstioCertificateRequest(csr=new_request(key, spiffe_id), validity_duration=int(self._ttl_s))
        if spiffe_id != self._own:
            request.metadata[IMPERSONATED] = str(spiffe_id)
        if self._holder:
            request.metadata[HOLDER] = self._holder
        return credentials_from(await self._create(request), key, spiffe_id)

    async def pass_on(self, request: IstioCertificateRequest) -> Sequence[str]:
        """The chain for a request that somebody else made, for a key that stays there. Raises Unreachable,
        ControlRefused."""
        if self._own is not None and request.metadata[IMPERSONATED] == str(self._own):
            del request.metadata[IMPERSONATED]
        return await self._create(request)

    async def _create(self, request: IstioCertificateRequest) -> Sequence[str]:
        async with calling(self.endpoint) as channel:
            create = IstioCertificateServiceStub(channel).CreateCertificate
            async with opened(create, self.endpoint, timeout_s=self._deadline_s) as stream:
                await stream.send_message(request, end=True)
                response = await stream.recv_message()
        return response.cert_chain if response is not None else ()
