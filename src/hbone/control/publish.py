"""Which resources each node gets: the mesh's state, and what is published of it, kept in step.

Every node gets every workload and service, as ztunnels do of istiod: a node must be able to answer for any address
that a program here may call. What to trust goes first, then policies: a workload never arrives before what protects
it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from hbone.control.trust_resource import TRUST_BUNDLE_TYPE
from hbone.discovery.catalogue import Catalogue, Resource
from hbone.discovery.model import MeshState
from hbone.discovery.policies import policy_resource
from hbone.discovery.resources import service_resource, workload_resource
from hbone.discovery.store import Change, Source, Store, Update
from hbone.discovery.xds import ADDRESS_TYPE, AUTHORIZATION_TYPE
from hbone.policy.model import Authorization

OnChange = Callable[[Change], None]
OnPolicies = Callable[[tuple[Authorization, ...]], None]
OnPublished = Callable[[], None]

SERVED_TYPES: Final = (TRUST_BUNDLE_TYPE, AUTHORIZATION_TYPE, ADDRESS_TYPE)


class Mesh:
    """The state of the mesh in the process that publishes it. Changes go through here, never to `store` itself."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store or Store()
        self.catalogues: Mapping[str, Catalogue] = {type_url: Catalogue(type_url) for type_url in SERVED_TYPES}
        self._listeners: dict[object, OnChange] = {}
        self._publishers: dict[object, OnPublished] = {}
        self.policies: dict[str, Authorization] = {}
        self._policy_listeners: dict[object, OnPolicies] = {}
        self.catalogues[ADDRESS_TYPE].update(
            [
                *(workload_resource(workload) for workload in self.store.workloads()),
                *(service_resource(service) for service in self.store.services()),
            ]
        )

    def apply(self, update: Update, source: Source) -> Change:
        """One change of one source, in force and published when this returns."""
        return self._publish(self.store.apply(update, source))

    def replace_all(self, source: Source, state: MeshState) -> Change:
        """`state` is all that `source` says from now on; only differences are published."""
        return self._publish(self.store.replace_all(source, state))

    def set_policies(self, policies: Iterable[Authorization]) -> None:
        """These are all the policies from now on; only differences are published.

        Before the workloads that they protect: a workload must never arrive without what protects it.
        """
        wanted = {policy.key: policy for policy in policies}
        gone = [key for key in self.policies if key not in wanted]
        changed = [policy for key, policy in wanted.items() if self.policies.get(key) != policy]
        if not gone and not changed:
            return
        self.policies = wanted
        self.catalogues[AUTHORIZATION_TYPE].update([policy_resource(policy) for policy in changed], gone)
        for call in tuple(self._policy_listeners.values()):
            call(tuple(wanted.values()))
        self._published()

    def on_policies(self, call: OnPolicies) -> Callable[[], object]:
        """`call` with all policies, now and after each change. Returns what ends it."""
        key = object()
        self._policy_listeners[key] = call
        call(tuple(self.policies.values()))
        return lambda: self._policy_listeners.pop(key, None)

    def on_change(self, call: OnChange) -> Callable[[], object]:
        """`call` after each change, in the order of changes. Returns what ends it."""
        key = object()
        self._listeners[key] = call
        return lambda: self._listeners.pop(key, None)

    def on_published(self, call: OnPublished) -> Callable[[], object]:
        """`call` whenever subscribers may have something to be told. Returns what ends it."""
        key = object()
        self._publishers[key] = call
        return lambda: self._publishers.pop(key, None)

    def publish(self, type_url: str, resources: Iterable[Resource], removed: Iterable[str] = ()) -> None:
        """Resources that are not part of the mesh's state, but told to its nodes."""
        self.catalogues[type_url].update(resources, removed)
        self._published()

    def _published(self) -> None:
        for call in tuple(self._publishers.values()):
            call()

    def _publish(self, change: Change) -> Change:
        if not change:
            return change
        changed: list[Resource] = []
        removed: list[str] = []
        for one in change.workloads:
            if one.after is not None:
                changed.append(workload_resource(one.after))
            elif one.before is not None:
                removed.append(one.before.uid)
        for two in change.services:
            if two.after is not None:
                changed.append(service_resource(two.after))
            elif two.before is not None:
                removed.append(two.before.key)
        self.catalogues[ADDRESS_TYPE].update(changed, removed)
        for call in tuple(self._listeners.values()):
            call(change)
        self._published()
        return change
