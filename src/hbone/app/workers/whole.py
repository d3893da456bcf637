"""The window of a node of several workers: what each says, with its number, in one."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from hbone.admin.mesh_views import service_views, workload_views
from hbone.app.window import served_here
from hbone.app.workers.crew import Crew
from hbone.app.workers.messages import Levels as LevelsMessage
from hbone.app.workers.totals import WholeMetrics
from hbone.config.model import NodeSettings
from hbone.discovery.directory import Directory
from hbone.proxy.served import LocalWorkloads
from hbone.telemetry.log import Logs
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
from hbone.values import dataclass

_V = TypeVar("_V")

_ALL: Final = ("connections", "tunnels", "certificates", "roots", "process")
WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "/connections": ("connections",),
    "/tunnels": ("tunnels",),
    "/certificates": ("certificates",),
    "/roots": ("roots",),
    "/process": ("process",),
    "/config_dump": _ALL,
    "/metrics": ("metrics",),
    "/stats/prometheus": ("metrics",),
}
"""What has to be asked of the workers before a path can be answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeNode:
    """What a window of all workers looks at."""

    settings: NodeSettings
    crew: Crew
    metrics: WholeMetrics
    store: Directory
    local: LocalWorkloads
    policies: Callable[[], Iterable[PolicyView]]
    process: Callable[[], ProcessView]
    listeners: Callable[[], Iterable[ListenerView]]
    quit: Callable[[], None]


class WholeWindow:
    """`hbone.admin.source.AdminSource`. What workers hold is what they said when `before` asked, and is given out once:
    the views of 65,000 connections are not kept until somebody asks again."""

    def __init__(self, node: WholeNode) -> None:
        self._node = node
        self._said: dict[str, dict[int, Any]] = {}

    async def before(self, path: str) -> None:
        """Ask the workers what `path` is about."""
        topics = WANTED.get(path.rstrip("/"), ())
        if not topics:
            return
        answers = await self._node.crew.ask(topics)
        for topic in topics:
            said = {number: answer[topic] for number, answer in answers.items() if topic in answer}
            if topic == "metrics":
                for number, text in said.items():
                    self._node.metrics.totals.said(number, text)
            elif topic != "process":  # which the crew has noted
                self._said[topic] = said

    def workloads(self) -> Iterable[WorkloadView]:
        return workload_views(self._node.store, lambda workload: served_here(self._node.local, workload))

    def services(self) -> Iterable[ServiceView]:
        return service_views(self._node.store)

    def policies(self) -> Iterable[PolicyView]:
        return self._node.policies()

    def connections(self) -> Iterable[ConnectionView]:
        return self._numbered("connections", ConnectionView)

    def tunnels(self) -> Iterable[TunnelView]:
        return self._numbered("tunnels", TunnelView)

    def certificates(self) -> Iterable[CertificateView]:
        return self._numbered("certificates", CertificateView)

    def roots(self) -> Iterable[RootView]:
        """Each once: all workers judge by the same."""
        views = [RootView(**said) for answers in self._said.pop("roots", {}).values() for said in answers]
        return {(view.trust_domain, view.fingerprint): view for view in views}.values()

    def listeners(self) -> Iterable[ListenerView]:
        return self._node.listeners()

    def process(self) -> ProcessView:
        return self._node.process()

    def config(self) -> Mapping[str, object]:
        return cast("Mapping[str, object]", self._node.settings.model_dump(mode="json"))

    def directory(self) -> Directory:
        return self._node.store

    def quit(self) -> None:
        self._node.quit()

    def _numbered(self, topic: str, view: Callable[..., _V]) -> list[_V]:
        return [
            view(**{**said, "worker": number})
            for number, answers in sorted(self._said.pop(topic, {}).items())
            for said in answers
        ]


class WholeLevels:
    """`hbone.admin.source.Levels` of all processes."""

    def __init__(self, logs: Logs, crew: Crew) -> None:
        self._logs = logs
        self._crew = crew

    @property
    def levels(self) -> str:
        return self._logs.levels

    def set_levels(self, text: str, /) -> None:
        self._logs.set_levels(text)
        self._crew.tell(LevelsMessage(text=text))

    def reset_levels(self) -> None:
        self._logs.reset_levels()
        self._crew.tell(LevelsMessage(text=self._logs.levels))
