"""What a server publishes of one xDS type, in the order of last change.

Every change of a resource takes the next revision and goes to the end of a log; an entry of the log that is not its
name's newest is dead and skipped. A subscriber is then described by one number, the revision up to which it was sent
everything: what it lacks is the log's tail. A resource that changed ten times meanwhile stands in that tail once,
so a slow subscriber costs nothing and gets only the newest state.

A resource is encoded once, when it is published, as the field of the response that will carry it; a response to any
number of subscribers is then a concatenation (`hbone.discovery.xds_server`).
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b

from hbone.proto.discovery_pb2 import DeltaDiscoveryResponse
from hbone.values import dataclass

_DEAD_ALLOWED = 1024  # below that many dead entries the log is not worth rewriting


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource to publish: `body` is its serialized message; `aliases` are further names it is asked for by."""

    name: str
    body: bytes
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """A resource as subscribers get it: `entry` is a serialized `DeltaDiscoveryResponse.resources` field."""

    name: str
    version: str
    entry: bytes
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """The newest change of a name; `resource` is None where it was removed."""

    revision: int
    name: str
    resource: Published | None


class Catalogue:
    """All resources of one type URL."""

    def __init__(self, type_url: str) -> None:
        self.type_url = type_url
        self.revision = 0
        self._live: dict[str, Published] = {}
        self._changed_at: dict[str, int] = {}  # of live and of removed names
        self._log: list[tuple[int, str]] = []
        self._named: dict[str, dict[str, None]] = {}  # alias → names
        self._forgotten = 0  # up to which revision removals are forgotten

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, name: object) -> bool:
        return name in self._live

    def get(self, name: str) -> Published | None:
        """By its own name only."""
        return self._live.get(name)

    def find(self, key: str) -> tuple[Published, ...]:
        """All resources with that name or alias."""
        if key in self._live:
            return (self._live[key],)
        return tuple(self._live[name] for name in self._named.get(key, ()))

    def versions(self) -> dict[str, str]:
        """Name → version of everything published: what a subscriber that is up to date holds."""
        return {name: resource.version for name, resource in self._live.items()}

    def update(self, changed: Iterable[Resource], removed: Iterable[str] = ()) -> bool:
        """Publish and withdraw; True if anything is different from before. Removals come first."""
        before = self.revision
        for name in removed:
            self._remove(name)
        for resource in changed:
            self._put(resource)
        self._compact()
        return self.revision != before

    def replace(self, resources: Mapping[str, Resource]) -> bool:
        """Make `resources` (by name) all that is published; True if anything is different from before."""
        gone = [name for name in self._live if name not in resources]
        return self.update(resources.values(), gone)

    def changes(self, after: int) -> Iterator[LogEntry]:
        """The newest change of each name, oldest first, as far as made after revision `after`.

        Nothing may be published while the result is iterated.
        """
        log = self._log
        for index in range(bisect_right(log, after, key=_revision), len(log)):
            revision, name = log[index]
            if self._changed_at.get(name) == revision:
                yield LogEntry(revision, name, self._live.get(name))

    def forget_removed(self, before: int) -> None:
        """Drop the memory of removals up to revision `before`, which every subscriber has been told."""
        if before <= self._forgotten:
            return  # what was removed since has a later revision
        self._forgotten = before
        gone = [name for name, at in self._changed_at.items() if at <= before and name not in self._live]
        for name in gone:
            del self._changed_at[name]
        self._compact()

    @property
    def removals_remembered(self) -> int:
        """How many removed names the log still holds."""
        return len(self._changed_at) - len(self._live)

    def _put(self, resource: Resource) -> None:
        version = _version(resource)
        old = self._live.get(resource.name)
        if old is not None and old.version == version:
            return
        self._drop_aliases(old)
        self._live[resource.name] = Published(
            resource.name, version, self._entry(resource, version), tuple(dict.fromkeys(resource.aliases))
        )
        for alias in resource.aliases:
            self._named.setdefault(alias, {})[resource.name] = None
        self._record(resource.name)

    def _remove(self, name: str) -> None:
        old = self._live.pop(name, None)
        if old is not None:
            self._drop_aliases(old)
            self._record(name)

    def _drop_aliases(self, old: Published | None) -> None:
        if old is None:
            return
        for alias in old.aliases:
            names = self._named[alias]
            del names[old.name]
            if not names:
                del self._named[alias]

    def _record(self, name: str) -> None:
        self.revision += 1
        self._changed_at[name] = self.revision
        self._log.append((self.revision, name))

    def _compact(self) -> None:
        # amortised: a rewrite of n entries follows at least n dead ones
        if len(self._log) > 2 * len(self._changed_at) + _DEAD_ALLOWED:
            self._log = [entry for entry in self._log if self._changed_at.get(entry[1]) == entry[0]]

    def _entry(self, resource: Resource, version: str) -> bytes:
        response = DeltaDiscoveryResponse()
        entry = response.resources.add(name=resource.name, version=version, aliases=resource.aliases)
        entry.resource.type_url = self.type_url
        entry.resource.value = resource.body
        return response.SerializeToString()


def _revision(entry: tuple[int, str]) -> int:
    return entry[0]


def _version(resource: Resource) -> str:
    """A digest of the contents: the same after a restart and on every replica, so that nothing is sent twice."""
    digest = blake2b(resource.body, digest_size=8)
    for alias in resource.aliases:
        digest.update(b"\0" + alias.encode())
    return digest.hexdigest()
