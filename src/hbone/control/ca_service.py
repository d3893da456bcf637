"""`istio.v1.auth.IstioCertificateService`: a CSR in, a chain out; errors as istiod's gRPC codes."""

import logging

from grpclib.const import Status
from grpclib.server import Stream

from hbone.ca.csr import MAX_REQUEST_BYTES, InvalidRequest
from hbone.control.callers import Caller, Identify, NotAuthenticated
from hbone.control.issue import CannotSign, CertificateRequest, Issuer, NotEntitled
from hbone.control.limiter import CallerLimits
from hbone.control.rpc import Refusal, answer, receive
from hbone.proto.citadel_grpc import IstioCertificateServiceBase
from hbone.proto.citadel_pb2 import IstioCertificateRequest, IstioCertificateResponse
from hbone.times import Clock
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

IMPERSONATED = "ImpersonatedIdentity"
HOLDER = "HboneHolder"

_MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES + 64 * 1024  # the CSR and whatever metadata a client adds

CertificateStream = Stream[IstioCertificateRequest, IstioCertificateResponse]


@dataclass(frozen=True, slots=True)
class IssueLimits:
    """What one caller may ask for, before any of it costs a signature. `what`: as it is called."""

    limits: CallerLimits
    clock: Clock
    what: str = "certificates"

    def check(self, caller: Caller) -> None:
        """Raises Refusal (RESOURCE_EXHAUSTED) when it was too much."""
        wait_s = self.limits.wait_s(caller.holder.uid, self.clock.now())
        if wait_s > 0:
            rate = self.limits.rate
            log.warning("caller asks for too many %s", self.what, extra={"caller": str(caller)[:500]})
            raise Refusal(
                Status.RESOURCE_EXHAUSTED,
                f"{caller} asks for too many {self.what}",
                why=f"the limit is {rate.burst} at once and {rate.per_s:g} a second",
                fix=f"ask again in {wait_s:.1f} s, or raise `certificate_rate` of the control plane",
            )


class CertificateService(IstioCertificateServiceBase):
    """For one connection."""

    def __init__(self, issuer: Issuer, identify: Identify, limits: IssueLimits | None = None) -> None:
        self._issuer = issuer
        self._identify = identify
        self._limits = limits

    async def CreateCertificate(self, stream: CertificateStream) -> None:
        message = await receive(stream, IstioCertificateRequest, max_bytes=_MAX_MESSAGE_BYTES)
        if message is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        caller = await self._identify(stream.metadata or {})
        if self._limits is not None:
            self._limits.check(caller)
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
