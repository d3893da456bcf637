"""`hbone.control.v1.Admin` on the control socket: for the user who runs the control plane, and for root."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.admin import Admin
from hbone.control.attest_unix import UnixAccess
from hbone.control.rpc import Peer, Refusal, UnixPeer, answer, receive
from hbone.errors import HboneError, PeerViolation, UsageError
from hbone.proto import admin_pb2 as messages
from hbone.proto.admin_grpc import AdminBase

_MAX_REQUEST_BYTES = 4 * 1024 * 1024  # a CA's files

_Request = TypeVar("_Request", bound=Message)
AnyStream = Stream[Any, Any]


class AdminService(AdminBase):
    """For one connection."""

    def __init__(self, admin: Admin, access: UnixAccess, peer: Peer) -> None:
        self._admin = admin
        self._access = access
        self._peer = peer

    async def CaStatus(self, stream: AnyStream) -> None:
        await self._one(stream, messages.CaStatusRequest, lambda _: self._admin.status())

    async def WatchCa(self, stream: AnyStream) -> None:
        await self._many(stream, messages.CaStatusRequest, lambda _: self._admin.watch())

    async def RotateIntermediate(self, stream: AnyStream) -> None:
        await self._one(stream, messages.RotateIntermediateRequest, lambda _: self._admin.rotate_intermediate())

    async def RotateRoot(self, stream: AnyStream) -> None:
        await self._one(stream, messages.RotateRootRequest, self._admin.rotate_root)

    async def ImportCa(self, stream: AnyStream) -> None:
        await self._one(stream, messages.ImportCaRequest, self._admin.import_ca)

    async def GetBundle(self, stream: AnyStream) -> None:
        await self._one(stream, messages.GetBundleRequest, lambda _: self._admin.bundle())

    async def GetBundleDocument(self, stream: AnyStream) -> None:
        async def document(request: messages.GetBundleDocumentRequest) -> messages.GetBundleDocumentResponse:
            return messages.GetBundleDocumentResponse(json=await self._admin.document(request.trust_domain))

        await self._one(stream, messages.GetBundleDocumentRequest, document)

    async def ListCertificates(self, stream: AnyStream) -> None:
        await self._many(stream, messages.ListCertificatesRequest, self._admin.certificates)

    async def Revoke(self, stream: AnyStream) -> None:
        await self._one(stream, messages.RevokeRequest, self._admin.revoke)

    async def Restore(self, stream: AnyStream) -> None:
        await self._one(stream, messages.RestoreRequest, self._admin.restore)

    async def ListAudit(self, stream: AnyStream) -> None:
        await self._many(stream, messages.ListAuditRequest, self._admin.audit)

    async def _one(self, stream: AnyStream, kind: type[_Request], do: Callable[[_Request], Awaitable[Message]]) -> None:
        request = await self._request(stream, kind)
        try:
            await answer(stream, await do(request))
        except HboneError as error:
            raise _refusal(error) from error

    async def _many(
        self, stream: AnyStream, kind: type[_Request], do: Callable[[_Request], AsyncIterator[Message]]
    ) -> None:
        request = await self._request(stream, kind)
        try:
            async for message in do(request):
                await answer(stream, message)
        except HboneError as error:
            raise _refusal(error) from error

    async def _request(self, stream: AnyStream, kind: type[_Request]) -> _Request:
        peer = self._peer
        if not isinstance(peer, UnixPeer) or not self._access.may_administer(peer.uid):
            raise Refusal(
                Status.PERMISSION_DENIED,
                f"{peer} may not administer the CA",
                why="its owner and root may",
                fix="run the command as the user who runs `hbone up`",
            )
        request = await receive(stream, kind, max_bytes=_MAX_REQUEST_BYTES)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        return request


def _refusal(error: HboneError) -> Refusal:
    """What the operator got wrong is their argument; that the CA cannot is its own state."""
    asked_wrong = isinstance(error, UsageError | PeerViolation)  # a name that is no SPIFFE ID is the latter
    code = Status.INVALID_ARGUMENT if asked_wrong else Status.FAILED_PRECONDITION
    return Refusal(code, error.what, why=error.why, fix=error.fix)
