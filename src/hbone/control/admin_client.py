"""Asking a running control plane: the client of `hbone.control.v1.Admin`."""

from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.client import ServiceMethod

from hbone.control.channel import Endpoint, calling, opened
from hbone.errors import Unreachable
from hbone.proto import admin_pb2 as messages
from hbone.proto.admin_grpc import AdminStub
from hbone.proto.trust_pb2 import TrustBundle

_DEADLINE_S = 30.0

_Reply = TypeVar("_Reply", bound=Message)


class AdminClient:
    """The operations of `hbone.control.admin.Admin`, elsewhere. All raise Unreachable, ControlRefused."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def status(self) -> messages.CaStatusResponse:
        return await self._one("CaStatus", messages.CaStatusRequest(), messages.CaStatusResponse)

    async def watch(self) -> AsyncGenerator[messages.CaStatusResponse]:
        async for status in self._many("WatchCa", messages.CaStatusRequest()):
            yield status

    async def rotate_intermediate(self) -> messages.CaStatusResponse:
        return await self._one("RotateIntermediate", messages.RotateIntermediateRequest(), messages.CaStatusResponse)

    async def rotate_root(self, request: messages.RotateRootRequest) -> messages.CaStatusResponse:
        return await self._one("RotateRoot", request, messages.CaStatusResponse)

    async def import_ca(self, request: messages.ImportCaRequest) -> messages.CaStatusResponse:
        return await self._one("ImportCa", request, messages.CaStatusResponse)

    async def bundle(self) -> TrustBundle:
        return await self._one("GetBundle", messages.GetBundleRequest(), TrustBundle)

    async def document(self, trust_domain: str = "") -> str:
        request = messages.GetBundleDocumentRequest(trust_domain=trust_domain)
        return (await self._one("GetBundleDocument", request, messages.GetBundleDocumentResponse)).json

    async def certificates(
        self, request: messages.ListCertificatesRequest
    ) -> AsyncGenerator[messages.ListCertificatesResponse]:
        async for page in self._many("ListCertificates", request):
            yield page

    async def revoke(self, request: messages.RevokeRequest) -> messages.RevokeResponse:
        return await self._one("Revoke", request, messages.RevokeResponse)

    async def restore(self, request: messages.RestoreRequest) -> messages.RevokeResponse:
        return await self._one("Restore", request, messages.RevokeResponse)

    async def audit(self, request: messages.ListAuditRequest) -> AsyncGenerator[messages.ListAuditResponse]:
        async for page in self._many("ListAudit", request):
            yield page

    async def _one(self, method: str, request: Message, kind: type[_Reply]) -> _Reply:
        async with calling(self._endpoint) as channel:
            call: ServiceMethod[Any, Any] = getattr(AdminStub(channel), method)
            async with opened(call, self._endpoint, timeout_s=_DEADLINE_S) as stream:
                await stream.send_message(request, end=True)
                reply = await stream.recv_message()
        if not isinstance(reply, kind):
            raise Unreachable(f"the control plane at {self._endpoint} gave no answer")
        return reply

    async def _many(self, method: str, request: Message) -> AsyncGenerator[Any]:
        async with calling(self._endpoint) as channel:
            call: ServiceMethod[Any, Any] = getattr(AdminStub(channel), method)
            async with opened(call, self._endpoint) as stream:
                await stream.send_message(request, end=True)
                while (reply := await stream.recv_message()) is not None:
                    yield reply
