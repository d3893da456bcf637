"""The SPIFFE Workload API: identities for any program that speaks it, without a library of ours.

Each stream gets the whole state at once and again whenever it changes. A caller without an identity is told so by
PERMISSION_DENIED, which clients take as "not yet" and ask again.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from google.protobuf.message import Message
from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.attest_process import Attested, Process
from hbone.control.jwt_source import JwtSvids
from hbone.control.jwt_svid import InvalidJwtSvid, validate
from hbone.control.local_workloads import LocalWorkloads
from hbone.control.rpc import Refusal, answer, receive
from hbone.identity.bundle import JWT_USE
from hbone.identity.jwk import Jwk, key_set
from hbone.identity.jws import Claims
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
from hbone.times import WallTime

log = logging.getLogger("hbone.control")

HEADER = "workload.spiffe.io"
_MAX_REQUEST_BYTES = 64 * 1024

_Request = TypeVar("_Request", bound=Message)
_Had = TypeVar("_Had")


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
        wanted = self._wanted(request.spiffe_id)
        given = await _all_that_can_be_had(wanted, lambda identity: self._jwt_svid(identity, list(request.audience)))
        svids = [JWTSVID(spiffe_id=str(one.identity), svid=token, hint=one.hint) for one, token in given]
        await answer(stream, JWTSVIDResponse(svids=svids))

    async def ValidateJWTSVID(self, stream: Stream[ValidateJWTSVIDRequest, ValidateJWTSVIDResponse]) -> None:
        request = await self._request(stream, ValidateJWTSVIDRequest)
        known = self._known_jwt_keys()
        try:
            spiffe_id, claims = validate(request.svid, request.audience, known, now=self._workloads.clock.wall())
            self._check_revoked(spiffe_id, claims)
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
        for one, credentials in await _all_that_can_be_had(self._attested(), self._workloads.credentials):
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

    async def _jwt_svid(self, identity: SpiffeId, audience: Sequence[str]) -> str:
        return await self._jwt_svids().get(identity, audience)

    def _jwt_svids(self) -> JwtSvids:
        """Raises Refusal where there are none."""
        svids = self._workloads.jwt
        if svids is None:
            why = "this node issues its certificates itself, from the CA directory of its setting `ca`"
            fix = "have it served by a control plane of hbone"
            raise Refusal(Status.UNIMPLEMENTED, "there are no JWT-SVIDs here", why=why, fix=fix)
        return svids

    def _known_jwt_keys(self) -> Mapping[TrustDomain, Sequence[Jwk]]:
        """Of every trust domain that has some; raises Refusal where our own has none (yet)."""
        self._jwt_svids()
        known = {domain: keys for domain, keys in self._workloads.trust().jwt_keys.items() if keys}
        if self._workloads.trust_domain not in known:
            why = f"the control plane has told none of {self._workloads.trust_domain}; an istiod has none"
            raise Refusal(Status.UNAVAILABLE, "no keys of JWT-SVIDs are known", why=why, fix="ask again")
        return known

    def _check_revoked(self, spiffe_id: SpiffeId, claims: Claims) -> None:
        """Raises InvalidJwtSvid."""
        issued: object = claims.get("iat", 0)
        begins = WallTime(issued if isinstance(issued, int | float) else 0.0)
        found = self._workloads.trust().bundle.revocations.of_identity(spiffe_id, begins)
        if found is not None:
            raise InvalidJwtSvid(f"{found.what} was revoked", why=found.reason)


async def _all_that_can_be_had(
    attested: Sequence[Attested], get: Callable[[SpiffeId], Awaitable[_Had]]
) -> Sequence[tuple[Attested, _Had]]:
    """Of a process's identities; raises Refusal when it is none of them."""
    had: list[tuple[Attested, _Had]] = []
    refusals: list[Refusal] = []
    for one in attested:
        try:
            had.append((one, await get(one.identity)))
        except Refusal as refusal:
            refusals.append(refusal)
    if not had:
        raise refusals[0]
    return had


def _der(certificates: Sequence[Any]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.DER) for certificate in certificates)
