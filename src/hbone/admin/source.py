"""What a process offers to its window; `hbone.app` fulfils it."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hbone.discovery.directory import Directory
    from hbone.telemetry.views import (
        CertificateView,
        ConnectionView,
        ListenerView,
        PolicyView,
        ProcessView,
        RootView,
        ServiceView,
        TunnelView,
        WorkloadView,
    )


class AdminSource(Protocol):
    """Snapshots of a running process. Nothing here waits.

    Iterables may be lazy: they are walked in slices while the loop goes on with other work, so what they yield must
    come from a copy (`hbone.admin.mesh_views` does it so for a mesh of any size).
    """

    def workloads(self) -> "Iterable[WorkloadView]": ...
    def services(self) -> "Iterable[ServiceView]": ...
    def policies(self) -> "Iterable[PolicyView]": ...
    def connections(self) -> "Iterable[ConnectionView]": ...
    def tunnels(self) -> "Iterable[TunnelView]": ...
    def certificates(self) -> "Iterable[CertificateView]": ...
    def roots(self) -> "Iterable[RootView]": ...
    def listeners(self) -> "Iterable[ListenerView]": ...
    def process(self) -> "ProcessView": ...

    def config(self) -> Mapping[str, object]:
        """All settings in force, JSON-shaped and without secrets."""
        ...

    def directory(self) -> "Directory":
        """The mesh as this process knows it."""
        ...

    def quit(self) -> None:
        """Begin to shut down, as SIGTERM would; returns at once."""
        ...


class Levels(Protocol):
    """The log levels in force; `hbone.telemetry.log.Logs` fulfils it."""

    @property
    def levels(self) -> str:
        """The specification in force."""
        ...

    def set_levels(self, text: str, /) -> None:
        """Raises InvalidLevel, then nothing has changed."""
        ...

    def reset_levels(self) -> None:
        """Back to what the settings say."""
        ...
