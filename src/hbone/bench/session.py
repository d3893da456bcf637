"""One call from the command line to a finished run: what is asked, what is here, what came out, where it is kept."""

import datetime as dt
import json
import random
import resource
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hbone.bench.candidates import Candidate, candidates_named
from hbone.bench.figures import Slice, Workload
from hbone.bench.machine import this_machine, versions
from hbone.bench.picture import picture
from hbone.bench.results import OURS, Results
from hbone.bench.runner import Plan, Progress, Run
from hbone.bench.solo import Solo
from hbone.bench.workloads.catalogue import chosen
from hbone.errors import UsageError
from hbone.values import dataclass

WANTED_DESCRIPTORS = 65_536  # 20,000 streams need as many in each process


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the user asked for."""

    workloads: tuple[str, ...]
    candidates: tuple[str, ...]
    rounds: int
    part: Slice


def measure(request: Request, progress: Progress) -> Results:
    """Run it, to its end or until Ctrl-C; raises UsageError when nothing of what was asked for can be measured."""
    workloads, candidates = chosen(request.workloads), candidates_named(request.candidates)
    absent = sorted(_absences(workloads, candidates))
    present = [candidate for candidate in candidates if candidate.missing() is None]
    ours = any(candidate.key.startswith(OURS) for candidate in present)
    able = [one for one in workloads if not _tools_missing(one) and (ours or not isinstance(one, Solo))]
    if not able or not present:
        raise UsageError("nothing can be measured here", why="; ".join(absent), fix="install what is missing")
    for reason in absent:
        progress(f"not measured: {reason}")
    results = Results(
        taken=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        versions=versions(),
        rounds=request.rounds,
        part=request.part,
        candidates=[candidate.key for candidate in candidates],
        absent=absent,
    )
    plan = Plan(workloads=able, candidates=present, rounds=request.rounds, part=request.part)
    raise_descriptor_limit()
    with tempfile.TemporaryDirectory(prefix="hbone-bench-") as directory:
        try:
            Run(plan, results, Path(directory), random.Random(), progress)()  # noqa: S311 - it picks ports
        except KeyboardInterrupt:
            results.interrupted = True
    return results


def _tools_missing(workload: Workload | Solo) -> list[str]:
    return [reason for tool in workload.tools if (reason := tool.missing())]


def _absences(workloads: Sequence[Workload | Solo], candidates: Sequence[Candidate]) -> set[str]:
    """What keeps something that was asked for from being measured."""
    lacking: dict[str, list[str]] = {}
    for workload in workloads:
        for reason in _tools_missing(workload):
            lacking.setdefault(reason, []).append(workload.key)
        if isinstance(workload, Solo) and not any(one.key.startswith(OURS) for one in candidates):
            lacking.setdefault("it is hbone's alone; add hbone to --candidates", []).append(workload.key)
    absent = {f"{', '.join(keys)}, because {reason}" for reason, keys in lacking.items()}
    return absent | {f"{one.key} ({one.title}), because {why}" for one in candidates if (why := one.missing())}


def raise_descriptor_limit() -> None:
    """Let this process and its children hold as many descriptors as they may; silently less where refused."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in ((WANTED_DESCRIPTORS, max(hard, WANTED_DESCRIPTORS)), (min(hard, WANTED_DESCRIPTORS), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, wanted)
        except (ValueError, OSError):
            continue
        return


def keep(results: Results, directory: Path) -> tuple[Path, Path]:
    """Write `<date>-<host class>.json` and its picture; an older result is never overwritten. Raises UsageError."""
    stem = f"{results.taken[:10]}-{results.machine.host_class}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        number = 1
        while (path := directory / f"{stem}{'' if number == 1 else f'.{number}'}.json").exists():
            number += 1
        path.write_text(json.dumps(results.as_json(), indent=1) + "\n")
        image = path.with_suffix(".svg")
        image.write_text(picture(results))
    except OSError as error:
        what = f"results cannot be kept in {directory}"
        raise UsageError(what, why=str(error.strerror), fix="name another directory with --results") from error
    return path, image
