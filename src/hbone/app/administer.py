"""An operator's way to a CA: through the control plane that runs, or, where none does, straight to its state."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from hbone.app.place import Place
from hbone.control import cadir
from hbone.control.admin import Admin
from hbone.control.admin_client import AdminClient
from hbone.control.caplane import CaPlace, CaPlane, Remembered, remembered
from hbone.control.channel import UnixEndpoint
from hbone.control.rotation import Rotation, RotationParts
from hbone.control.unixsocket import answers
from hbone.errors import UsageError
from hbone.net.clock import SystemClock, system_rng
from hbone.proto import admin_pb2 as messages
from hbone.proto.trust_pb2 import TrustBundle


class Operations(Protocol):
    """What can be asked, the same either way; see `hbone.control.admin`."""

    async def status(self) -> messages.CaStatusResponse: ...
    def watch(self) -> AsyncIterator[messages.CaStatusResponse]: ...
    async def rotate_intermediate(self) -> messages.CaStatusResponse: ...
    async def rotate_root(self, request: messages.RotateRootRequest) -> messages.CaStatusResponse: ...
    async def import_ca(self, request: messages.ImportCaRequest) -> messages.CaStatusResponse: ...
    async def bundle(self) -> TrustBundle: ...
    async def document(self, trust_domain: str = "") -> str: ...
    def certificates(
        self, request: messages.ListCertificatesRequest
    ) -> AsyncIterator[messages.ListCertificatesResponse]: ...
    async def revoke(self, request: messages.RevokeRequest) -> messages.RevokeResponse: ...
    async def restore(self, request: messages.RestoreRequest) -> messages.RevokeResponse: ...
    def audit(self, request: messages.ListAuditRequest) -> AsyncIterator[messages.ListAuditResponse]: ...


@asynccontextmanager
async def administering(place: Place) -> AsyncGenerator[tuple[Operations, bool]]:
    """The operations, and whether a control plane runs. Raises UsageError where there is neither it nor its state."""
    socket = place.control_socket
    if answers(socket):
        yield AdminClient(UnixEndpoint(socket)), True
        return
    found = remembered(place.state)
    if found is None:
        raise UsageError(
            "there is no CA here",
            why=f"no `hbone up` listens at {socket}, and none has kept its state in {place.state}",
            fix="start `hbone up`, or name its --state-dir",
        )
    async with await CaPlane.open(_ca_place(place.state, found)) as ca:
        parts = RotationParts(
            store=ca.store,
            authorities=ca.authorities,
            trust=ca.trust,
            clock=ca.place.clock,
            subscribers=lambda: (),
            revision=lambda: 0,
        )
        yield Admin(ca, Rotation(parts)), False


def _ca_place(directory: Path, found: Remembered) -> CaPlace:
    clock = SystemClock()
    plugged = Path(found.plugged_from) if found.plugged_from else None
    return CaPlace(
        directory=directory,
        trust_domain=found.trust_domain,
        clock=clock,
        rng=system_rng(),
        plugged=None if plugged is None else cadir.load(plugged, found.trust_domain, clock=clock),
        plugged_from=found.plugged_from,
        refresh_hint_s=found.refresh_hint_s,
        aliases=found.aliases,
    )
