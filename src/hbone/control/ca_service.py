"""`istio.v1.auth.IstioCertificateService`: a CSR in, a chain out; errors as istiod's gRPC codes."""

from grpclib.const import Status
from grpclib.server import Stream

from hbone.ca.csr import MAX_REQUEST_BYTES, InvalidRequest
from hbone.control.callers import Identify, NotAuthenticated
from hbone.control.issue import CannotSign, CertificateRequest, Issuer, NotEntitled
from hbone.control.rpc import Refusal, answer, receive
from hbone.proto.citadel_grpc import IstioCertificateServiceBase
from hbone.proto.citadel_pb2 import IstioCertificateRequest, IstioCertificateResponse

IMPERSONATED = "ImpersonatedIdentity"
HOLDER = "HboneHolder"

_MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES + 64 * 1024  # the CSR and whatever metadata a client adds

CertificateStream = Stream[IstioCertificateRequest, IstioCertificateResponse]


class CertificateService(IstioCertificateServiceBase):
    """For one connection."""

    def __init__(self, issuer: Issuer, identify: Identify) -> None:
        self._issuer = issuer
        self._identify = identify

    async def CreateCertificate(self, stream: CertificateStream) -> None:
        message = await receive(stream, IstioCertificateRequest, max_bytes=_MAX_MESSAGE_BYTES)
        if message is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        caller = await self._identify(stream.metadata or {})
        request = CertificateRequest(
            csr=message.csr,
            ttl_s=message.validity_duration,
            impersonated=message.metadata.fields[IMPERSONATED].string_value,
            holder=message.metadata.fields[HOLDER].string_value,
        )
        try:
            issued = await self._issuer.issue(request, caller=str(caller), refusal=caller.refusal, redeem=caller.redeem)
        except (NotEntitled, NotAuthenticated) as error:
            raise Refusal(Status.UNAUTHENTICATED, error.what, why=error.why, fix=error.fix) from error
        except InvalidRequest as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        except CannotSign as error:
            raise Refusal(Status.INTERNAL, error.what, why=error.why, fix=error.fix) from error
        await answer(stream, IstioCertificateResponse(cert_chain=issued.response()))
