"""Holding a registration: the client of `hbone.control.v1.Registry`.

    async with Registration(endpoint, wish, rng) as registration:
        registration.granted.addresses …

It is lost with the connection, and taken again, under the same name and addresses, when the control plane is back. A
machine that starts while the control plane is away may go on with what it was granted before (`kept`).
"""

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Final, Self

from grpclib.client import Stream

from hbone.addr import parse_ip
from hbone.control.backoff import reconnect_after
from hbone.control.channel import ControlRefused, Endpoint, calling, opened
from hbone.control.lease import Granted, Wish
from hbone.errors import HboneError, Unreachable
from hbone.identity.spiffe import SpiffeId
from hbone.net.tasks import Tasks
from hbone.proto.control_grpc import RegistryStub
from hbone.proto.control_pb2 import RegisterRequest, RegisterResponse
from hbone.times import Rng

log = logging.getLogger("hbone.control")

RegisterStream = Stream[RegisterRequest, RegisterResponse]

KEPT_WAIT_S: Final = 1.0  # for the control plane, where there is something to go on with


class Registration:
    """A lease that is kept for as long as the context lasts."""

    def __init__(
        self, endpoint: Endpoint, wish: Wish, rng: Rng, *, deadline_s: float = 10.0, kept: Granted | None = None
    ) -> None:
        """`kept`: what was granted for this wish before, to go on with if the control plane is not reached at once."""
        self._endpoint = endpoint
        self._wish = wish
        self._rng = rng
        self._deadline_s = deadline_s if kept is None else min(deadline_s, KEPT_WAIT_S)
        self._kept = kept
        self._tasks = Tasks("registration")
        self._first: asyncio.Future[Granted] | None = None
        self._granted: Granted | None = None
        self._held = False

    @property
    def granted(self) -> Granted:
        """What we have; stays the same when the registration is taken again."""
        assert self._granted is not None, "entered"  # noqa: S101 - the context gives it
        return self._granted

    @property
    def held(self) -> bool:
        """Whether the control plane knows of us now."""
        return self._held

    async def __aenter__(self) -> Self:
        """Raises Unreachable (unless something was kept), or ControlRefused with the control plane's reason."""
        self._first = asyncio.get_running_loop().create_future()
        run = partial(self._run, self._first)
        name = f"registration of {self._wish.namespace}/{self._wish.service_account}"
        self._tasks.keep(run, name=name)
        try:
            async with asyncio.timeout(self._deadline_s):
                await asyncio.shield(self._first)
        except TimeoutError as error:
            await self._tasks.close()  # what was asked for until now might be granted as something else
            if not self._go_on(self._first, error):
                raise Unreachable(
                    f"the control plane at {self._endpoint} did not answer", why=f"not within {self._deadline_s:g} s"
                ) from error
            self._tasks.keep(run, name=name)
        except BaseException:
            await self._tasks.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._tasks.close()

    async def _run(self, first: asyncio.Future[Granted]) -> None:
        failures = 0
        said = ""
        while True:
            try:
                async with calling(self._endpoint) as channel:
                    register = RegistryStub(channel).Register
                    async with opened(register, self._endpoint) as stream:
                        await self._hold(stream, first)
                error: HboneError = Unreachable(f"the control plane at {self._endpoint} ended the registration")
            except HboneError as caught:
                error = caught
            if not first.done():
                if not _may_pass(error) or not self._go_on(first, error):
                    first.set_exception(error)  # the caller must know; later failures mend themselves
                    return
                said = str(error)
            if self._held:
                failures, said = 0, ""
            else:
                failures += 1
            if said != str(error):
                log.warning("registration lost", extra={"workload": self.granted.uid, "error": str(error)})
                said = str(error)
            self._held = False
            await asyncio.sleep(reconnect_after(failures, self._rng))

    def _go_on(self, first: asyncio.Future[Granted], error: Exception) -> bool:
        """With what was kept, if anything was; the control plane is asked for just that when it is back."""
        kept = self._kept
        if kept is None or first.done():
            return False
        log.warning("registration as it was kept", extra={"workload": kept.uid, "error": str(error)})
        self._granted = kept
        self._wish = replace(self._wish, name=kept.name, addresses=kept.addresses)
        first.set_result(kept)
        return True

    async def _hold(self, stream: RegisterStream, first: asyncio.Future[Granted]) -> None:
        await stream.send_message(_request(self._wish))
        while (response := await stream.recv_message()) is not None:
            granted = _granted(response)
            self._wish = replace(self._wish, name=granted.name, addresses=granted.addresses)
            self._granted, self._held = granted, True
            if not first.done():
                first.set_result(granted)
            else:
                log.info("registered again", extra={"workload": granted.uid})


def _may_pass(error: HboneError) -> bool:
    return isinstance(error, Unreachable) or (isinstance(error, ControlRefused) and error.passing)


def _request(wish: Wish) -> RegisterRequest:
    request = RegisterRequest(
        name=wish.name,
        namespace=wish.namespace,
        service_account=wish.service_account,
        addresses=[str(ip) for ip in wish.addresses],
        hbone_port=wish.hbone_port,
        node=wish.node,
        group=wish.group,
    )
    for service in wish.services:
        message = request.services.add(hostname=service.hostname)
        for port, target in service.ports.items():
            message.ports.add(service_port=port, target_port=target)
    return request


def _granted(response: RegisterResponse) -> Granted:
    return Granted(
        uid=response.uid,
        name=response.name,
        addresses=tuple(parse_ip(text) for text in response.addresses),
        spiffe_id=SpiffeId.parse(response.spiffe_id),
        hostnames=tuple(response.hostnames),
    )
