"""Where a process's view of the mesh comes from: manifests, ztunnel's local file, a control plane.

Files are loaded once before anything starts, so that a mistake in them starts nothing; afterwards they are watched,
and a state that is wrong never replaces the last one that was right.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Final

from hbone.app.kept import KEPT_FROM_BYTES, Kept, collector_off, key_of
from hbone.control.manifests_watch import FilesWatch
from hbone.discovery.localfile import parse_local_file
from hbone.discovery.manifests import Defaults
from hbone.discovery.model import MeshState, Workload
from hbone.discovery.store import Source
from hbone.discovery.subjects import parse_secured, subject_of
from hbone.errors import InvalidConfiguration, Problem
from hbone.net.tasks import Tasks
from hbone.policy.compile import compile_policies
from hbone.policy.localform import parse_local_policies
from hbone.policy.model import Authorization, MeshNames
from hbone.values import dataclass

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_BYTES: Final = 256 * 1024 * 1024
_UNREADABLE: Final = {
    errno.ENOENT: "check the path",
    errno.EISDIR: "name a file, not a directory",
    errno.EACCES: "make it readable for this user",
    errno.ELOOP: "make the link lead to a file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Protected:
    """A mesh's state, each workload naming the policies that select it, what the members of each group are, and all
    policies."""

    state: MeshState
    groups: Mapping[str, Workload] = field(default_factory=dict[str, Workload])
    policies: tuple[Authorization, ...] = ()

    @property
    def count(self) -> int:
        return len(self.state.workloads) + len(self.state.services) + len(self.groups) + len(self.policies)


Apply = Callable[[Source, Protected], object]
NAMES: Final = MeshNames()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSources:
    """What is read from disk; None for none.

    `defaults` are for manifests that leave things out, `names` for what policies call the mesh. `allow_empty`: a
    change that leaves nothing of what was there is meant. `kept`: where what large manifests said is kept for the next
    start.
    """

    manifests: Path | None = None
    local_xds: Path | None = None
    defaults: Defaults
    names: MeshNames = NAMES
    allow_empty: bool = False
    kept: Path | None = None


def _anything(_held: Protected, _loaded: Protected) -> Iterable[Problem]:
    return ()


def _emptied(path: Path, held: Protected, loaded: Protected) -> Iterable[Problem]:
    """A directory that was emptied, or another one mounted in its place, must not take the mesh down."""
    if loaded.count or not held.count:
        return
    yield Problem(
        what=f"nothing is left here: all {held.count} workloads, services and policies would be removed",
        fix="put the files back; or, if that is meant, start again with `allow_empty_mesh: true` "
        "(HBONE_ALLOW_EMPTY_MESH=true)",
        file=str(path),
    )


class MeshFiles:
    """The file sources of one process."""

    def __init__(self, sources: FileSources, apply: Apply) -> None:
        self._watches: list[tuple[str, FilesWatch[Protected]]] = []
        self._allow_empty = sources.allow_empty
        self._kept = Kept(sources.kept, Protected) if sources.kept is not None else None
        if sources.manifests is not None:
            load = partial(load_manifests, defaults=sources.defaults, names=sources.names, kept=self._kept)
            self._watch("manifests", sources.manifests, load, Source.MANIFESTS, apply)
        if sources.local_xds is not None:
            self._watch("local_xds", sources.local_xds, load_local_file, Source.LOCAL_FILE, apply)

    def _watch(self, name: str, path: Path, load: Callable[[Path], Protected], source: Source, apply: Apply) -> None:
        guard = _anything if self._allow_empty else partial(_emptied, path)
        self._watches.append((name, FilesWatch(path, load, lambda loaded: apply(source, loaded), guard)))

    async def load(self) -> None:
        """Read everything now; raises InvalidConfiguration with all problems."""
        problems: list[Problem] = []
        for _, watch in self._watches:
            try:
                await watch.load()
            except InvalidConfiguration as error:
                problems.extend(error.problems)
        if problems:
            raise InvalidConfiguration(problems)

    def start(self, tasks: Tasks) -> None:
        """Watch from now on."""
        for name, watch in self._watches:
            tasks.keep(watch.run, name=f"watch {name}")

    async def keep(self) -> None:
        """Write down for the next start what is worth it; nothing to do most of the time."""
        if self._kept is not None:
            await asyncio.to_thread(self._kept.flush)

    def reloads(self) -> Mapping[str, int]:
        """How often changes were put in force ("ok"), and how often they could not be ("failed")."""
        return {result: sum(watch.reloads[result] for _, watch in self._watches) for result in ("ok", "failed")}

    def problems(self) -> Iterable[Problem]:
        """What is wrong with the files as they are now."""
        return [problem for _, watch in self._watches for problem in watch.problems]


def read_directory(directory: Path) -> dict[str, bytes]:
    """The YAML and JSON files below a directory, by their name as an error should show it."""
    if not directory.is_dir():
        fix = "name a directory of YAML files" if directory.exists() else "create it, or correct the path"
        what = "not a directory" if directory.exists() else "no such directory"
        raise InvalidConfiguration([Problem(what=what, fix=fix, file=str(directory))])
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    for path in _files_below(directory, problems):
        try:
            files[str(path)] = read_file(path)
        except InvalidConfiguration as error:
            problems.extend(error.problems)
    if problems:
        raise InvalidConfiguration(problems)
    return files


def _files_below(directory: Path, problems: list[Problem]) -> list[Path]:
    """Hidden ones are not meant (a mounted ConfigMap keeps its versions so); a link that leads nowhere is."""
    found: list[Path] = []
    for place, below, names in os.walk(directory, onerror=lambda error: problems.append(_unreadable(error))):
        below[:] = [name for name in below if not name.startswith(".")]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.suffix in SUFFIXES and (path.is_file() or not path.exists())]
    return sorted(found)


def read_file(path: Path) -> bytes:
    """A file's content; raises InvalidConfiguration when it cannot be read or is absurdly large."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidConfiguration(
                [Problem(what="more than 256 MiB", fix="split it, or let a control plane serve it", file=str(path))]
            )
        return path.read_bytes()
    except OSError as error:
        raise InvalidConfiguration([_unreadable(error)]) from error


def _unreadable(error: OSError) -> Problem:
    fix = _UNREADABLE.get(error.errno or 0, "make it readable")
    return Problem(what=(error.strerror or "cannot be read").lower(), fix=fix, file=str(error.filename))


def load_manifests(
    directory: Path, defaults: Defaults, names: MeshNames, kept: "Kept[Protected] | None" = None
) -> Protected:
    """A directory of manifests, policies included; raises InvalidConfiguration with every problem.

    `kept`: where a large one may have been kept, and is offered to be.
    """
    files = read_directory(directory)
    if kept is None or sum(map(len, files.values())) < KEPT_FROM_BYTES:
        return _read(files, defaults, names)
    with collector_off():
        key = key_of(files, defaults, names)
        found = kept.load(key)
        if found is None:
            found = _read(files, defaults, names)
            kept.offer(key, found)
    return found


def _read(files: Mapping[str, bytes], defaults: Defaults, names: MeshNames) -> Protected:
    secured = parse_secured(files, defaults)
    compiled = compile_policies(secured.policies, names)
    state, groups = secured.manifests.state, secured.manifests.groups
    if not compiled.authorizations:
        return Protected(state=state, groups=groups)
    services = {service.key: service for service in state.services}

    def protected(one: Workload) -> Workload:
        return replace(one, authorization_policies=compiled.keys_for(subject_of(one, services)))

    return Protected(
        state=replace(state, workloads=tuple(map(protected, state.workloads))),
        groups={key: protected(member) for key, member in groups.items()},
        policies=compiled.authorizations,
    )


def load_local_file(path: Path) -> Protected:
    """ztunnel's local XDS file as it stands, policies included."""
    local = parse_local_file(str(path), read_file(path))
    return Protected(state=local.state, policies=parse_local_policies(local.policies))


def read_text(path: Path) -> str:
    """A text file; raises InvalidConfiguration when it cannot be read or is no UTF-8."""
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidConfiguration([Problem(what="not UTF-8 text", fix="save it as UTF-8", file=str(path))]) from error
