"""`hbone.control.v1.Registry`: a lease for as long as the stream lives, so that a killed program leaves no workload."""

import logging
from collections.abc import Iterable

from grpclib.const import Status
from grpclib.server import Stream

from hbone.addr import InvalidAddress, parse_ip
from hbone.control.callers import Caller, Identify
from hbone.control.lease import Conflict, Lease, OverLimit, RegistrationRefused, ServiceWish, Wish
from hbone.control.publish import Mesh
from hbone.control.registrations import Registrations
from hbone.control.registry import Registry
from hbone.control.rpc import Refusal, answer, receive
from hbone.discovery.store import Source
from hbone.errors import StoreFailed
from hbone.proto.control_grpc import RegistryBase
from hbone.proto.control_pb2 import RegisterRequest, RegisterResponse
from hbone.proto.control_pb2 import Service as ServiceMessage

log = logging.getLogger("hbone.control")

_MAX_REQUEST_BYTES = 256 * 1024

RegisterStream = Stream[RegisterRequest, RegisterResponse]


class RegistryService(RegistryBase):
    """For one connection."""

    def __init__(
        self, registry: Registry, mesh: Mesh, identify: Identify, registrations: Registrations | None = None
    ) -> None:
        """`registrations` keeps leases on disk; without it they end with this process."""
        self._registry = registry
        self._mesh = mesh
        self._identify = identify
        self._registrations = registrations

    async def Register(self, stream: RegisterStream) -> None:
        caller = await self._identify(stream.metadata or {})
        lease: Lease | None = None
        try:
            while True:
                request = await receive(stream, RegisterRequest, max_bytes=_MAX_REQUEST_BYTES)
                if request is None:
                    return
                before, lease = lease, self._register(request, lease, caller)
                await self._keep(lease, before)
                await answer(stream, _response(lease))
        finally:
            if lease is not None and self._release(lease):
                log.info("registration ended", extra={"workload": lease.workload.uid})

    async def _keep(self, lease: Lease, before: Lease | None) -> None:
        if self._registrations is None:
            return
        try:
            await self._registrations.put(lease, instead_of=before)
        except StoreFailed as error:
            raise Refusal(Status.INTERNAL, error.what, why=error.why, fix=error.fix) from error

    def _release(self, lease: Lease) -> bool:
        if self._registrations is not None:
            return self._registrations.release(lease)
        self._mesh.apply(self._registry.release(lease), Source.REGISTRATIONS)
        return True

    def _register(self, request: RegisterRequest, lease: Lease | None, caller: Caller) -> Lease:
        try:
            wish = _wish(request)
            why = caller.refusal(self._registry.identity(wish))
            if why:
                raise Refusal(Status.PERMISSION_DENIED, "the registration is refused", why=why)
            granted, update = self._registry.register(wish, caller.holder, instead_of=lease)
        except Conflict as error:
            raise Refusal(Status.ALREADY_EXISTS, error.what, why=error.why, fix=error.fix) from error
        except OverLimit as error:
            raise Refusal(Status.RESOURCE_EXHAUSTED, error.what, why=error.why, fix=error.fix) from error
        except (RegistrationRefused, InvalidAddress) as error:
            raise Refusal(Status.INVALID_ARGUMENT, error.what, why=error.why, fix=error.fix) from error
        self._mesh.apply(update, Source.REGISTRATIONS)
        log.info("registered", extra={"workload": granted.workload.uid, "caller": str(caller)})
        return granted


def _wish(request: RegisterRequest) -> Wish:
    return Wish(
        namespace=request.namespace,
        service_account=request.service_account,
        name=request.name,
        addresses=tuple(parse_ip(text) for text in request.addresses),
        hbone_port=_port(request.hbone_port),
        services=tuple(_services(request.services)),
        node=request.node,
        group=request.group,
    )


def _services(services: Iterable[ServiceMessage]) -> Iterable[ServiceWish]:
    for service in services:
        ports = {port.service_port: port.target_port or port.service_port for port in service.ports}
        yield ServiceWish(hostname=service.hostname, ports=ports)


def _port(number: int) -> int:
    if number > 65535:
        raise RegistrationRefused(f"{number} is not a port", fix="write a number from 1 to 65535")
    return number


def _response(lease: Lease) -> RegisterResponse:
    workload = lease.workload
    return RegisterResponse(
        uid=workload.uid,
        name=workload.name,
        addresses=[str(ip) for ip in workload.addresses],
        spiffe_id=str(workload.identity),
        hostnames=[service.hostname for service in lease.services],
    )
