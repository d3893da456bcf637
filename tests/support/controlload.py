"""Load on a control plane's socket, from a process of its own: `python -m tests.support.controlload …`.

    certificates SOCKET SECONDS AT_ONCE     certificates over gRPC, for as long
    changes SOCKET SUBSCRIBERS CHANGES      subscribers of the mesh, and changes made while they listen

Prints one line of JSON. Certificate requests are made before the clock starts: their keys are the clients' affair.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

from hbone.ca.csr import new_request
from hbone.control.ca_client import IMPERSONATED
from hbone.control.channel import UnixEndpoint, calling
from hbone.control.lease import Wish
from hbone.control.register import Registration
from hbone.discovery.xds import ADDRESS_TYPE
from hbone.identity.spiffe import SpiffeId, TrustDomain
from hbone.net.clock import new_key
from hbone.proto.citadel_grpc import IstioCertificateServiceStub
from hbone.proto.citadel_pb2 import IstioCertificateRequest
from hbone.proto.discovery_grpc import AggregatedDiscoveryServiceStub
from hbone.proto.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

DOMAIN = TrustDomain("cluster.local")
CHANNELS = 4
IDENTITIES = 200


def requests() -> list[IstioCertificateRequest]:
    found: list[IstioCertificateRequest] = []
    for number in range(IDENTITIES):
        identity = SpiffeId.for_workload(DOMAIN, "fleet", f"w{number}")
        request = IstioCertificateRequest(csr=new_request(new_key(), identity), validity_duration=86_400)
        request.metadata[IMPERSONATED] = str(identity)
        found.append(request)
    return found


async def certificates(socket: Path, seconds: float, at_once: int) -> dict[str, float]:
    """How many were issued, in how many seconds."""
    wanted, endpoint = requests(), UnixEndpoint(socket)
    issued = 0

    async def ask(stub: IstioCertificateServiceStub, first: int, until: float) -> None:
        nonlocal issued
        number = first
        while time.monotonic() < until:
            answer: Any = await stub.CreateCertificate(wanted[number % IDENTITIES])
            assert len(answer.cert_chain) == 3
            issued += 1
            number += 1

    async with AsyncExitStack() as stack:
        stubs = [
            IstioCertificateServiceStub(await stack.enter_async_context(calling(endpoint))) for _ in range(CHANNELS)
        ]
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(ask(stubs[number % CHANNELS], 7 * number, began + seconds), name=f"caller {number}")
        return {"issued": issued, "seconds": time.monotonic() - began}


class Subscriber:
    """Reads what it is sent, says so, and remembers when it came."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.came: dict[str, float] = {}
        self.news = asyncio.Event()

    async def run(self, endpoint: UnixEndpoint) -> None:
        """Until cancelled."""
        async with calling(endpoint) as channel:
            stub = AggregatedDiscoveryServiceStub(channel)
            async with stub.DeltaAggregatedResources.open() as stream:
                request = DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, resource_names_subscribe=["*"])
                request.node.id = self._name
                await stream.send_message(request)
                while True:
                    response = await stream.recv_message()
                    now = time.monotonic()
                    assert isinstance(response, DeltaDiscoveryResponse), "the stream has ended"
                    self.came.update((resource.name, now) for resource in response.resources)
                    self.news.set()
                    acknowledged = DeltaDiscoveryRequest(type_url=ADDRESS_TYPE, response_nonce=response.nonce)
                    await stream.send_message(acknowledged)

    async def wait_for(self, name: str) -> float:
        while name not in self.came:
            self.news.clear()
            await self.news.wait()
        return self.came[name]


async def changes(socket: Path, subscribers: int, count: int) -> dict[str, list[float]]:
    """Milliseconds from asking for a change to its arrival at each subscriber, sorted."""
    endpoint, found = UnixEndpoint(socket), list[float]()
    everybody = [Subscriber(f"node-{number}") for number in range(subscribers)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.run(endpoint), name="subscriber") for one in everybody]
        for number in range(-1, count):  # the first only says that all are connected
            wish = Wish(namespace="load", service_account="load", name=f"change{number}")
            began = time.monotonic()
            async with Registration(endpoint, wish, Random(1)) as registration, asyncio.timeout(30):
                times = await asyncio.gather(*(one.wait_for(registration.granted.uid) for one in everybody))
            if number >= 0:
                found += [1000 * (at - began) for at in times]
            await asyncio.sleep(0.02)
        for task in tasks:
            task.cancel()
    return {"ms": sorted(found)}


def main() -> None:
    what, socket, first, second = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    work = certificates(socket, first, second) if what == "certificates" else changes(socket, first, second)
    sys.stdout.write(json.dumps(asyncio.run(work)) + "\n")


if __name__ == "__main__":
    main()
