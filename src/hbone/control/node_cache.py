"""What a node keeps on disk so that it can start while its control plane is away: certificates with their keys, whom
to trust and who is revoked, the mesh.

Only if the operator asks for it (`cache_dir`): private keys are on disk then, in files of mode 0600. What the control
plane says always counts more; the cache speaks only where nobody else does. What is in it is judged like anything
else: a certificate that has ended, or a file that cannot be read, is as good as none.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import orjson
from google.protobuf.message import DecodeError

from hbone.control.channel import ControlRefused
from hbone.control.credentials import Credentials, SvidSource
from hbone.control.keys import remove_unfinished, write_whole
from hbone.control.statedir import make_private
from hbone.control.subscribe import Sink
from hbone.discovery.xds import Reject, Update
from hbone.errors import HboneError
from hbone.identity.bundle import TrustBundle
from hbone.identity.rotation import has_ended
from hbone.identity.spiffe import SpiffeId
from hbone.identity.svid import X509Svid
from hbone.proto.discovery_pb2 import DeltaDiscoveryResponse
from hbone.times import Clock

log = logging.getLogger("hbone.node")

FLUSH_S: Final = 2.0  # a mesh of 200,000 workloads is 60 MB: not written anew for each change
_AT_ONCE: Final = 100  # so few resources are on disk before they are acknowledged: trust bundles are


class NodeCache:
    """The files. `open` makes the directory; what cannot be written is said, and the node goes on without."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def open(cls, directory: Path) -> "NodeCache":
        """Raises UsageError, InvalidConfiguration for a directory that is not ours alone."""
        make_private(directory)
        remove_unfinished(directory)
        return cls(directory)

    # --- certificates -------------------------------------------------------------------------------------------

    def save_credentials(self, credentials: Credentials) -> None:
        svid = credentials.svid
        content = {
            "spiffe_id": str(svid.spiffe_id),
            "chain": svid.chain_pem().decode(),
            "key": svid.key_pem().decode(),
            "roots": credentials.bundle.pem(svid.spiffe_id.trust_domain).decode(),
        }
        self._write(self._svid_path(svid.spiffe_id), orjson.dumps(content))

    def credentials(self, spiffe_id: SpiffeId) -> Credentials | None:
        """None where there are none, or they cannot be read."""
        try:
            content = orjson.loads(self._svid_path(spiffe_id).read_bytes())
            svid = X509Svid.from_pem(content["chain"].encode(), content["key"].encode())
            bundle = TrustBundle.from_pem(spiffe_id.trust_domain, content["roots"].encode())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, HboneError) as error:
            log.warning("cached certificate not usable", extra={"identity": str(spiffe_id), "error": str(error)[:300]})
            return None
        return Credentials(svid=svid, bundle=bundle) if svid.spiffe_id == spiffe_id else None

    def drop_credentials(self, spiffe_id: SpiffeId) -> None:
        with contextlib.suppress(OSError):
            self._svid_path(spiffe_id).unlink(missing_ok=True)

    def _svid_path(self, spiffe_id: SpiffeId) -> Path:
        return self.directory / f"svid-{sha256(str(spiffe_id).encode()).hexdigest()[:32]}.json"

    # --- resources ----------------------------------------------------------------------------------------------

    def save_resources(self, type_url: str, resources: Mapping[str, Update]) -> None:
        response = DeltaDiscoveryResponse(type_url=type_url)
        for one in resources.values():
            entry = response.resources.add(name=one.name, version=one.version)
            entry.resource.value = one.body
        self._write(self._resources_path(type_url), response.SerializeToString())

    def resources(self, type_url: str) -> tuple[Update, ...]:
        """Empty where there are none, or they cannot be read."""
        try:
            response = DeltaDiscoveryResponse.FromString(self._resources_path(type_url).read_bytes())
        except FileNotFoundError:
            return ()
        except (OSError, DecodeError) as error:
            log.warning("cached resources not usable", extra={"type": type_url, "error": str(error)[:300]})
            return ()
        return tuple(Update(one.name, one.version, one.resource.value) for one in response.resources)

    def _resources_path(self, type_url: str) -> Path:
        return self.directory / f"{type_url.rpartition('/')[2]}.pb"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content, 0o600)
        except OSError as error:
            log.warning("cache not written", extra={"path": str(path), "error": error.strerror or str(error)})


class CachedSource:
    """A source of certificates (`SvidSource`) that falls back on the cache at an identity's first use, where the CA
    cannot be reached. An identity that the CA refuses is dropped from the cache."""

    def __init__(self, source: SvidSource, cache: NodeCache, clock: Clock) -> None:
        self._source = source
        self._cache = cache
        self._clock = clock
        self._asked: set[SpiffeId] = set()

    async def fetch(self, spiffe_id: SpiffeId) -> Credentials:
        first = spiffe_id not in self._asked
        self._asked.add(spiffe_id)
        try:
            credentials = await self._source.fetch(spiffe_id)
        except HboneError as error:
            if isinstance(error, ControlRefused) and not error.passing:
                await asyncio.to_thread(self._cache.drop_credentials, spiffe_id)
                raise
            cached = await asyncio.to_thread(self._cache.credentials, spiffe_id) if first else None
            if cached is None or has_ended(cached.svid, self._clock.wall()):
                raise
            log.warning("certificate taken from the cache", extra={"identity": str(spiffe_id), "error": str(error)})
            return cached
        await asyncio.to_thread(self._cache.save_credentials, credentials)
        return credentials


class CachingSink:
    """A sink whose resources are kept on disk. `prime` takes what was kept; `run` writes what changed."""

    def __init__(self, type_url: str, sink: Sink, cache: NodeCache) -> None:
        self.type_url = type_url
        self._sink = sink
        self._cache = cache
        self._held: dict[str, Update] = {}
        self._changed = asyncio.Event()

    async def prime(self) -> Mapping[str, str]:
        """Put in force what was kept; its versions by name, to resume from."""
        updates = await asyncio.to_thread(self._cache.resources, self.type_url)
        rejects = await self._sink.take(updates, []) if updates else ()
        bad = {reject.name for reject in rejects}
        self._held = {update.name: update for update in updates if update.name not in bad}
        return {name: update.version for name, update in self._held.items()}

    async def take(self, updates: Sequence[Update], removed: Sequence[str]) -> Sequence[Reject]:
        rejects = await self._sink.take(updates, removed)
        bad = {reject.name for reject in rejects}
        self._held.update((update.name, update) for update in updates if update.name not in bad)
        for name in removed:
            self._held.pop(name, None)
        if len(self._held) <= _AT_ONCE:
            await self._save()
        else:
            self._changed.set()
        return rejects

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._changed.wait()
            await asyncio.sleep(FLUSH_S)
            await self._save()

    async def _save(self) -> None:
        self._changed.clear()
        await asyncio.to_thread(self._cache.save_resources, self.type_url, dict(self._held))
