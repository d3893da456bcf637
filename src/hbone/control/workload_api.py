"""The SPIFFE Workload API: identities for any program that speaks it, without a library of ours.

Each stream gets the whole state at once and again whenever it changes. A caller without an identity is told so by
PERMISSION_DENIED, which clients take as "not yet" and ask again.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.attest_process import Attested, Process
from hbone.control.credentials import Credentials
from hbone.control.jwt_svid import InvalidJwtSvid, JwtKeys, validate
from hbone.control.local_workloads import LocalWorkloads
from hbone.control.rpc import Refusal, answer, receive
from hbone.identity.bundle import JWT_USE
from hbone.identity.jwk import Jwk, key_set
from hbone.identity.spiffe import SCHEME, InvalidSpiffeId, SpiffeId, TrustDomain
from hbone.proto.workloadapi_grpc import SpiffeWorkloadAPIBase
from hbone.proto.workloadapi_pb2 import (
    JWTSVID,
    X509SVID,
    JWTBundlesRequest,
    JWTBundlesResponse,
    JWTSVIDRequest,
    JWTSVIDResponse,
    ValidateJWTSVIDRequest,
    ValidateJWTSVIDResponse,
    X509BundlesRequest,
    X509BundlesResponse,
    X509SVIDRequest,
    X509SVIDResponse,
)

log = logging.getLogger("hbone.control")

HEADER = "workload.spiffe.io"
_MAX_REQUEST_BYTES = 64 * 1024

_Request = TypeVar("_Request", bound=Message)


class _Stated(Protocol):
    """Makes the state that a stream is to show."""

    async def __call__(self) -> Message: ...


class WorkloadApi(SpiffeWorkloadAPIBase):
    """For one connection."""

    def __init__(self, workloads: LocalWorkloads, process: Process) -> None:
        self._workloads = workloads
        self._process = process

    async def FetchX509SVID(self, stream: Stream[X509SVIDRequest, X509SVIDResponse]) -> None:
        await self._request(stream, X509SVIDRequest)
        await self._keep_telling(stream, self._x509_svids)

    async def FetchX509Bundles(self, stream: Stream[X509BundlesRequest, X509BundlesResponse]) -> None:
        await self._request(stream, X509BundlesRequest)
        await self._keep_telling(stream, self._x509_bundles)

    async def FetchJWTBundles(self, stream: Stream[JWTBundlesRequest, JWTBundlesResponse]) -> None:
        await self._request(stream, JWTBundlesRequest)
        await self._keep_telling(stream, self._jwt_bundles)

    async def FetchJWTSVID(self, stream: Stream[JWTSVIDRequest, JWTSVIDResponse]) -> None:
        request = await self._request(stream, JWTSVIDRequest)
        keys, now = self._jwt_keys(), self._workloads.clock.wall()
        wanted = self._wanted(request.spiffe_id)
        try:
            svids = [
                JWTSVID(
                    spiffe_id=str(one.identity),
                    svid=keys.issue(one.identity, list(request.audience), now=now),
                    hint=one.hint,
                )
                for one in wanted
            ]
        except InvalidJwtSvid as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        await answer(stream, JWTSVIDResponse(svids=svids))

    async def ValidateJWTSVID(self, stream: Stream[ValidateJWTSVIDRequest, ValidateJWTSVIDResponse]) -> None:
        request = await self._request(stream, ValidateJWTSVIDRequest)
        known = self._known_jwt_keys()
        try:
            spiffe_id, claims = validate(request.svid, request.audience, known, now=self._workloads.clock.wall())
        except InvalidJwtSvid as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        response = ValidateJWTSVIDResponse(spiffe_id=str(spiffe_id))
        response.claims.update(dict(claims))
        await answer(stream, response)

    # --- what is told -------------------------------------------------------------------------------------------

    async def _x509_svids(self) -> Message:
        trust, own = self._workloads.trust(), self._workloads.trust_domain
        response = X509SVIDResponse(
            crl=[crl.public_bytes(Encoding.DER) for crl in trust.crls],
            federated_bundles={
                f"{SCHEME}{domain}": _der(roots) for domain, roots in trust.bundle.roots.items() if domain != own
            },
        )
        for one, credentials in await self._held(self._attested()):
            svid = credentials.svid
            response.svids.append(
                X509SVID(
                    spiffe_id=str(one.identity),
                    x509_svid=_der(svid.chain),
                    x509_svid_key=svid.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                    bundle=_der(trust.bundle.roots.get(own, ())),
                    hint=one.hint,
                )
            )
        return response

    async def _held(self, attested: Sequence[Attested]) -> Sequence[tuple[Attested, Credentials]]:
        """Those of a process's identities that the CA gives us; raises Refusal when it gives none."""
        held: list[tuple[Attested, Credentials]] = []
        refusals: list[Refusal] = []
        for one in attested:
            try:
                held.append((one, await self._workloads.credentials(one.identity)))
            except Refusal as refusal:
                refusals.append(refusal)
        if not held:
            raise refusals[0]
        return held

    async def _x509_bundles(self) -> Message:
        self._attested()
        trust = self._workloads.trust()
        return X509BundlesResponse(
            crl=[crl.public_bytes(Encoding.DER) for crl in trust.crls],
            bundles={f"{SCHEME}{domain}": _der(roots) for domain, roots in trust.bundle.roots.items()},
        )

    async def _jwt_bundles(self) -> Message:
        self._attested()
        return JWTBundlesResponse(
            bundles={
                f"{SCHEME}{domain}": json.dumps(key_set(((one.kid, one.key) for one in keys), use=JWT_USE)).encode()
                for domain, keys in self._known_jwt_keys().items()
            }
        )

    async def _keep_telling(self, stream: Stream[Any, Any], state: _Stated) -> None:
        """Now, and whenever it is another one, until the caller goes."""
        said = None
        with self._workloads.changes.watched() as changed:
            while True:
                changed.clear()
                current = await state()
                if current != said:
                    await answer(stream, current)
                    said = current
                await changed.wait()

    # --- who asks -----------------------------------------------------------------------------------------------

    async def _request(self, stream: Stream[Any, Any], kind: type[_Request]) -> _Request:
        """The request of a call that says what it is (Workload Endpoint §6: against forged requests of browsers)."""
        if stream.metadata is None or stream.metadata.get(HEADER) != "true":
            raise Refusal(Status.INVALID_ARGUMENT, "security header missing from request", fix=f"send `{HEADER}: true`")
        request = await receive(stream, kind, max_bytes=_MAX_REQUEST_BYTES)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        return request

    def _attested(self) -> Sequence[Attested]:
        found = self._process.identities()
        if not found:
            log.info("process without identity", extra={"caller": str(self._process)})
            raise Refusal(Status.PERMISSION_DENIED, "no identity issued", why=f"no rule fits {self._process}")
        return found

    def _wanted(self, spiffe_id: str) -> Sequence[Attested]:
        """The caller's identities, or the one of them that it names."""
        found = self._attested()
        if not spiffe_id:
            return found
        try:
            named = SpiffeId.parse(spiffe_id)
        except InvalidSpiffeId as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, fix=error.fix) from error
        own = [one for one in found if one.identity == named]
        if not own:
            raise Refusal(Status.PERMISSION_DENIED, "no identity issued", why=f"{self._process} is not {named}")
        return own

    def _known_jwt_keys(self) -> Mapping[TrustDomain, Sequence[Jwk]]:
        """Of every trust domain that has some."""
        own = self._jwt_keys()
        known = {domain: keys for domain, keys in self._workloads.trust().jwt_keys.items() if keys}
        return {**known, own.trust_domain: own.known}

    def _jwt_keys(self) -> JwtKeys:
        keys: Callable[[], JwtKeys] | None = self._workloads.jwt
        if keys is None:
            raise Refusal(Status.UNIMPLEMENTED, "JWT-SVIDs are not served here", fix="ask the control plane's socket")
        return keys()


def _der(certificates: Sequence[Any]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)
