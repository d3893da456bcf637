"""Secret discovery for Envoy: its certificate (`default`) and whom to trust (`ROOTCA`), pushed at each rotation.

A name may also be a SPIFFE ID, for a proxy of several identities, or `spiffe://DOMAIN` for that domain's roots. Who
may have what is decided as for the Workload API: by what the kernel says of the process.

What Envoy acknowledges or refuses is only noted. A secret that it refused is not sent again until it is another one.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding
from grpclib.const import Status
from grpclib.server import Stream

from hbone.control.attest_process import Process
from hbone.control.local_workloads import LocalWorkloads
from hbone.control.rpc import Refusal, answer, receive
from hbone.identity.spiffe import InvalidSpiffeId, SpiffeId
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hbone.proto.sds_grpc import SecretDiscoveryServiceBase
from hbone.proto.secret_pb2 import Secret
from hbone.proto.sotw_pb2 import DiscoveryRequest, DiscoveryResponse
from hbone.values import dataclass

log = logging.getLogger("hbone.control")

SECRET_TYPE: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105 - a type
DEFAULT: Final = "default"
ROOTS: Final = "ROOTCA"

MAX_NAMES: Final = 1000
_MAX_REQUEST_BYTES: Final = 1 << 20

Entitled = Callable[[SpiffeId], str]
"""Why a process may not have an identity that no rule gives it; empty if it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A secret and its version: a hash of what is public in it."""

    name: str
    version: str
    body: bytes


class StateOfTheWorld:
    """One StreamSecrets: names wanted, what was said. Decides; holds no stream."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._said: tuple[tuple[str, str], ...] | None = None
        self._nonce = 0

    def receive(self, request: DiscoveryRequest) -> str:
        """Take a request; the reason of a NACK, empty otherwise. One that answers an older response than the last is
        passed over."""
        _check_type(request.type_url)
        if request.response_nonce and request.response_nonce != str(self._nonce):
            return ""
        names = _checked(request.resource_names)
        if names != self.names or not request.response_nonce:
            self._said = None  # other names, or a client that has just come: it waits for an answer
        self.names = names
        return request.error_detail.message if request.HasField("error_detail") else ""

    def response(self, secrets: Sequence[Named]) -> DiscoveryResponse | None:
        """What to send, None if that was said already."""
        saying = tuple((secret.name, secret.version) for secret in secrets)
        if not self.names or saying == self._said:
            return None
        self._said = saying
        self._nonce += 1
        response = _whole(secrets)
        response.nonce = str(self._nonce)
        return response


class Delta:
    """One DeltaSecrets: versions that the client has. Decides; holds no stream."""

    def __init__(self) -> None:
        self._versions: dict[str, str] = {}
        self._wanted: dict[str, None] = {}
        self._nonce = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._wanted)

    def receive(self, request: DeltaDiscoveryRequest) -> str:
        """Take a request; the reason of a NACK, empty otherwise."""
        _check_type(request.type_url)
        for name in request.resource_names_unsubscribe:
            self._wanted.pop(name, None)
            self._versions.pop(name, None)
        for name in _checked(request.resource_names_subscribe):
            self._wanted[name] = None
            self._versions.pop(name, None)  # asked for again: answered again
        for name, version in request.initial_resource_versions.items():
            if name in self._wanted:
                self._versions[name] = version
        _checked(self._wanted)
        return request.error_detail.message if request.HasField("error_detail") else ""

    def response(self, secrets: Sequence[Named]) -> DeltaDiscoveryResponse | None:
        """What to send, None if the client has it all."""
        new = [secret for secret in secrets if self._versions.get(secret.name) != secret.version]
        if not new:
            return None
        self._nonce += 1
        response = DeltaDiscoveryResponse(type_url=SECRET_TYPE, nonce=str(self._nonce))
        for secret in new:
            self._versions[secret.name] = secret.version
            resource = response.resources.add(name=secret.name, version=secret.version)
            resource.resource.type_url, resource.resource.value = SECRET_TYPE, secret.body
        return response


class SecretService(SecretDiscoveryServiceBase):
    """For one connection. `entitled`: what the process may name besides the identities that rules give it."""

    def __init__(self, workloads: LocalWorkloads, process: Process, entitled: Entitled) -> None:
        self._workloads = workloads
        self._process = process
        self._entitled = entitled

    async def StreamSecrets(self, stream: Stream[DiscoveryRequest, DiscoveryResponse]) -> None:
        await self._converse(stream, DiscoveryRequest, StateOfTheWorld())

    async def DeltaSecrets(self, stream: Stream[DeltaDiscoveryRequest, DeltaDiscoveryResponse]) -> None:
        await self._converse(stream, DeltaDiscoveryRequest, Delta())

    async def FetchSecrets(self, stream: Stream[DiscoveryRequest, DiscoveryResponse]) -> None:
        request = await receive(stream, DiscoveryRequest, max_bytes=_MAX_REQUEST_BYTES)
        if request is None:
            raise Refusal(Status.INVALID_ARGUMENT, "no request was sent")
        _check_type(request.type_url)
        await answer(stream, _whole(await self._secrets(_checked(request.resource_names))))

    async def _converse(self, stream: Stream[Any, Any], kind: type[Any], talk: StateOfTheWorld | Delta) -> None:
        """Read requests and send what follows of them, and of changes, until the caller goes."""
        with self._workloads.changes.watched() as changed:
            reader = asyncio.create_task(self._read(stream, kind, talk, changed), name=f"secrets from {self._process}")
            writer = asyncio.create_task(self._write(stream, talk, changed), name=f"secrets to {self._process}")
            try:
                done, _ = await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in (reader, writer):
                    task.cancel()
                await asyncio.gather(reader, writer, return_exceptions=True)

    async def _read(
        self, stream: Stream[Any, Any], kind: type[Any], talk: StateOfTheWorld | Delta, changed: asyncio.Event
    ) -> None:
        while (request := await receive(stream, kind, max_bytes=_MAX_REQUEST_BYTES)) is not None:
            rejected = talk.receive(request)
            if rejected:
                log.warning("secret rejected", extra={"caller": str(self._process), "why": rejected[:500]})
            changed.set()

    async def _write(self, stream: Stream[Any, Any], talk: StateOfTheWorld | Delta, changed: asyncio.Event) -> None:
        while True:
            await changed.wait()
            changed.clear()
            response = talk.response(await self._secrets(talk.names))
            if response is not None:
                await answer(stream, response)

    async def _secrets(self, names: Sequence[str]) -> list[Named]:
        return [await self._secret(name) for name in names]

    async def _secret(self, name: str) -> Named:
        """Raises Refusal: the stream then ends with it, and Envoy asks again after a while."""
        if name == ROOTS:
            return self._roots(name, SpiffeId(self._workloads.trust_domain, ""))
        if name == DEFAULT:
            own = self._process.identities()
            if not own:
                why = f"no rule gives {self._process} an identity"
                raise self._denied(name, why, fix=f"add one, or name a SPIFFE ID instead of {DEFAULT}")
            return await self._certificate(name, own[0].identity)
        try:
            identity = SpiffeId.parse(name)
        except InvalidSpiffeId as error:
            fix = f"name {DEFAULT}, {ROOTS} or a SPIFFE ID"
            raise Refusal(Status.NOT_FOUND, f"there is no secret {name[:200]!r}", fix=fix) from error
        return await self._certificate(name, identity) if identity.path else self._roots(name, identity)

    async def _certificate(self, name: str, identity: SpiffeId) -> Named:
        if identity not in {one.identity for one in self._process.identities()}:
            why = self._entitled(identity)
            if why:
                raise self._denied(name, why, fix="add a rule that gives it this identity")
        svid = (await self._workloads.credentials(identity)).svid
        secret = Secret(name=name)
        secret.tls_certificate.certificate_chain.inline_bytes = svid.chain_pem()
        secret.tls_certificate.private_key.inline_bytes = svid.key_pem()
        return Named(name=name, version=_version([svid.chain_pem()]), body=secret.SerializeToString())

    def _roots(self, name: str, domain: SpiffeId) -> Named:
        trust = self._workloads.trust()
        pem = trust.bundle.pem(domain.trust_domain)
        if not pem:
            raise Refusal(Status.NOT_FOUND, f"no roots of trust domain {domain.trust_domain} are known")
        secret = Secret(name=name)
        secret.validation_context.trusted_ca.inline_bytes = pem
        crl = b""
        if domain.trust_domain == self._workloads.trust_domain:
            crl = b"".join(one.public_bytes(Encoding.PEM) for one in trust.crls)
        if crl:
            secret.validation_context.crl.inline_bytes = crl
        return Named(name=name, version=_version([pem, crl]), body=secret.SerializeToString())

    def _denied(self, name: str, why: str, *, fix: str) -> Refusal:
        log.warning("secret refused", extra={"caller": str(self._process), "secret": name[:200], "why": why})
        return Refusal(Status.PERMISSION_DENIED, f"the secret {name[:200]} is not for you", why=why, fix=fix)


def _whole(secrets: Sequence[Named]) -> DiscoveryResponse:
    version = _version([f"{secret.name}={secret.version}".encode() for secret in secrets])
    response = DiscoveryResponse(version_info=version, type_url=SECRET_TYPE)
    for secret in secrets:
        response.resources.add(type_url=SECRET_TYPE, value=secret.body)
    return response


def _check_type(type_url: str) -> None:
    """An empty one is the service's own (xDS protocol)."""
    if type_url not in {"", SECRET_TYPE}:
        raise Refusal(Status.INVALID_ARGUMENT, f"{type_url[:200]!r} is not served here", fix=f"ask for {SECRET_TYPE}")


def _checked(names: Iterable[str]) -> tuple[str, ...]:
    distinct = tuple(dict.fromkeys(names))
    if len(distinct) > MAX_NAMES:
        raise Refusal(Status.RESOURCE_EXHAUSTED, f"{len(distinct)} secrets at once", fix=f"ask for at most {MAX_NAMES}")
    return distinct


def _version(public: Iterable[bytes]) -> str:
    return sha256(b"\0".join(public)).hexdigest()[:16]
