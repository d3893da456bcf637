"""A node's end of trust bundles: takes the resources, and has them put in force before they are acknowledged."""

from collections.abc import Callable, Sequence

from hbone.control.trust_resource import DomainTrust, decode
from hbone.discovery.resources import InvalidResource
from hbone.discovery.xds import Reject, Update
from hbone.identity.spiffe import TrustDomain

OnTrust = Callable[[tuple[DomainTrust, ...]], None]


class TrustSink:
    """`hbone.control.subscribe.Sink`. `apply` puts all that is known now in force, in one step."""

    def __init__(self, apply: OnTrust) -> None:
        self._apply = apply
        self._known: dict[TrustDomain, DomainTrust] = {}

    async def take(self, updates: Sequence[Update], removed: Sequence[str]) -> Sequence[Reject]:
        rejects: list[Reject] = []
        for update in updates:
            try:
                trust = decode(update.name, update.body)
            except InvalidResource as error:
                rejects.append(Reject(update.name, error.what))
            else:
                self._known[trust.domain] = trust
        for name in removed:
            self._known.pop(TrustDomain(name), None)
        if len(rejects) < len(updates) or removed:
            self._apply(tuple(self._known.values()))
        return rejects
