#!/usr/bin/env python3
"""Compile the modules that carry bytes, where that can be done: see src/hbone/native.py for what becomes of them.

    .venv/bin/python tools/compile.py           where there is a C compiler; says why when there is none
    .venv/bin/python tools/compile.py --must    fail when it cannot be done

Does nothing when what lies there fits the sources. The modules keep to what mypyc lays out and translates faithfully:
classes whose attributes have one type each, no dataclasses (values live in modules of their own), no coroutines, one
type of error for each `as` name of a function. tests/unit/test_native.py holds them to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

from hbone import native  # noqa: E402 -- needs the path

MODULES = {
    "protocol": "connect connection events flow frames headers incoming messages meters outbox sending streams",
    "net": "deadlines dial h2link linkwriter listener members owners poller relay tls",
    "proxy": "deliveries halfclose inbound_stream inbound_tunnel keepalive outbound outbound_stream outcome pool "
    "registry traffic tunnel ways",
    "discovery": "plan",
    "telemetry": "access",
}
OPTIMIZE = "-O2"
SETTINGS = """[mypy]
explicit_package_bases = true
ignore_missing_imports = true
"""


class Impossible(Exception):
    """This machine cannot compile."""


def sources() -> list[str]:
    return sorted(f"{folder}/{name}.py" for folder, names in MODULES.items() for name in names.split())


def check_machine() -> None:
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")[0]
    if shutil.which(compiler) is None:
        raise Impossible(f"there is no C compiler ({compiler})")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise Impossible("the interpreter's C headers are not installed (Python.h, of python3-dev)")
    try:
        importlib.import_module("mypyc.build")
    except ImportError as error:
        raise Impossible(f"mypyc is not installed ({error})") from error


def translate(directory: Path) -> list[tuple[str, list[str], list[str]]]:
    """Write the C sources below `directory`; for each extension its name, its sources, and its directories."""
    from mypyc.build import mypycify

    settings = directory / "mypy.ini"
    settings.write_text(SETTINGS + f"cache_dir = {ROOT / '.mypy_cache' / 'compile'}\n")
    os.environ["MYPYPATH"] = str(ROOT / "src")
    files = [str(ROOT / "src" / "hbone" / path) for path in sources()]
    said = io.StringIO()  # hints, unless it fails
    with contextlib.redirect_stdout(said):
        try:
            extensions = mypycify(
                [f"--config-file={settings}", *files],
                group_name="hbone",
                multi_file=True,
                target_dir=str(directory / "c"),
            )
        except SystemExit as error:
            raise Impossible(f"mypyc takes a module for wrong:\n{said.getvalue()}") from error
        except Exception as error:  # of a compiler that does not know this interpreter yet, say
            raise Impossible(f"mypyc failed: {error!r}") from error
    return [
        (each.name, [str(source) for source in each.sources], [str(include) for include in each.include_dirs])
        for each in extensions
    ]


def build(directory: Path) -> None:
    """Compile and link everything into `directory / "out"`, on all cores."""
    extensions = translate(directory)
    out, objects = directory / "out", directory / "o"
    out.mkdir()
    objects.mkdir()
    compiler = shlex.split(sysconfig.get_config_var("CC"))
    flags = [flag for flag in shlex.split(sysconfig.get_config_var("CFLAGS")) if not flag.startswith(("-O", "-g"))]
    include = ["-I", sysconfig.get_path("include")]
    linker = shlex.split(sysconfig.get_config_var("LDSHARED"))

    def compiled(job: tuple[str, str, list[str]]) -> None:
        source, target, directories = job
        paths = [part for each in directories for part in ("-I", each)]
        run([*compiler, *flags, OPTIMIZE, "-fPIC", "-w", *include, *paths, "-c", source, "-o", target])

    jobs: list[tuple[str, str, list[str]]] = []
    links: list[list[str]] = []
    for name, files, directories in extensions:
        made: list[str] = []
        for number, source in enumerate(files):
            made.append(str(objects / f"{name}.{number}.o"))
            jobs.append((source, made[-1], directories))
        links.append([*linker, *made, "-o", str(out / f"{name}{native.SUFFIX}")])
    jobs.sort(key=lambda job: -Path(job[0]).stat().st_size)  # the long ones first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, jobs))
        list(pool.map(run, links))
    lines = [f"{native.checksum_of(str(ROOT / 'src' / 'hbone' / path))} {path}\n" for path in sources()]
    (out / native.SOURCES).write_text("".join(lines), encoding="ascii")


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Impossible(f"{command[0]} failed: {done.stderr.strip()[-2000:]}")


def up_to_date() -> bool:
    return native.fitting() == frozenset(map(native.module_name, sources()))


def install(made: Path) -> None:
    """Put `made` in the place of what was there, in one step for whoever starts just now."""
    target = Path(native.DIRECTORY)
    target.parent.mkdir(exist_ok=True)
    fresh = target.with_name(f"{target.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(made, fresh)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)


@contextlib.contextmanager
def alone() -> Generator[None]:
    """Of two that compile at once, the second finds the work done."""
    with (ROOT / ".venv.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def main() -> int:
    if up_to_date():
        return 0
    try:
        check_machine()
        with alone(), tempfile.TemporaryDirectory(prefix="hbone-compile-") as directory:
            if not up_to_date():
                started = time.monotonic()
                print("compile: the modules that carry bytes, half a minute or so", file=sys.stderr, flush=True)
                build(Path(directory))
                install(Path(directory, "out"))
                print(f"compile: ready in {time.monotonic() - started:.0f} s", file=sys.stderr)
    except (Impossible, OSError) as reason:
        print(f"compile: hbone runs as plain Python, only slower: {reason}", file=sys.stderr)
        return int("--must" in sys.argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main())
