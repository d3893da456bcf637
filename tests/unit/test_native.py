"""The compiled modules: used all or none, only while they fit their sources, and written so that they can be."""

import ast
import os
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

import pytest

import hbone
from hbone import native
from tools import compile as compiling

PACKAGE = Path(hbone.__file__).parent
IS_IN_USE = "from hbone import native; from hbone.net import relay; print(native.in_use(), relay.__file__)"


def in_a_process_of_its_own(package_at: Path, **environment: str) -> tuple[str, str]:
    """Whether compiled modules are in use there, and which file the relay is of."""
    env = os.environ | {"PYTHONPATH": str(package_at)} | environment
    done = subprocess.run([sys.executable, "-c", IS_IN_USE], env=env, capture_output=True, text=True, check=True)
    used, _, file = done.stdout.strip().partition(" ")
    return used, file


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the package, with its compiled modules, which may be changed."""
    if not native.fitting():
        pytest.skip("the compiled modules are not there, or older than their sources")
    import shutil

    shutil.copytree(PACKAGE, tmp_path / "hbone", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_an_interpreter_that_was_asked_for_its_optimizations_is_not_called_plain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def asked_for(name: str) -> str:
        return "'--enable-shared' '--enable-optimizations'" if name == "CONFIG_ARGS" else ""

    monkeypatch.setattr(sysconfig, "get_config_var", asked_for)
    assert not native.plain_interpreter()


def test_compiled_modules_are_used_where_they_fit_their_sources(copy: Path) -> None:
    used, file = in_a_process_of_its_own(copy, HBONE_PURE="")
    assert (used, Path(file).suffix) == ("True", Path(native.SUFFIX).suffix)


def test_hbone_pure_leaves_them_out(copy: Path) -> None:
    used, file = in_a_process_of_its_own(copy, HBONE_PURE="1")
    assert (used, Path(file).suffix) == ("False", ".py")


@pytest.mark.parametrize("path", compiling.sources()[:3])
def test_a_source_that_was_changed_puts_them_all_out_of_use(copy: Path, path: str) -> None:
    source = copy / "hbone" / path
    source.write_text(source.read_text() + "\n# changed\n")
    assert in_a_process_of_its_own(copy, HBONE_PURE="") == ("False", str(copy / "hbone" / "net" / "relay.py"))


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_library_that_cannot_be_loaded_leaves_the_sources(copy: Path, content: bytes) -> None:
    (library,) = (copy / "hbone" / "_native").glob(f"*/{native.LIBRARY}*")
    library.write_bytes(content)
    assert in_a_process_of_its_own(copy, HBONE_PURE="")[0] == "False"


def trees() -> list[tuple[str, ast.Module]]:
    return [(path, ast.parse((PACKAGE / path).read_text())) for path in compiling.sources()]


def test_no_compiled_module_has_a_coroutine() -> None:
    """Translated, `async with asyncio.timeout()` may let the cancellation out instead of the TimeoutError."""
    found = [path for path, tree in trees() for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
    assert found == []


def test_no_compiled_module_has_a_dataclass() -> None:
    """Translated, frozen ones refuse their own first values."""
    found = [path for path, _ in trees() if "import dataclass" in (PACKAGE / path).read_text()]
    assert found == []


def test_a_name_of_a_caught_error_has_one_type_in_a_function() -> None:
    """Translated, a name has the type of its first use: a second kind of error would be a TypeError."""
    found: list[str] = []
    for path, tree in trees():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                kinds: defaultdict[str | None, set[str]] = defaultdict(set)
                for node in ast.walk(function):
                    if isinstance(node, ast.ExceptHandler) and node.type is not None:
                        kinds[node.name].add(ast.unparse(node.type))
                kinds.pop(None, None)
                found += [f"{path} {function.name} {name}" for name, types in kinds.items() if len(types) > 1]
    assert found == []


@pytest.mark.parametrize("compiler", ["there-is-no-such-compiler", "false"])
def test_without_a_compiler_that_works_hbone_stays_as_it_is_and_says_why(
    compiler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = sysconfig.get_config_var

    def variable(name: str) -> str | int | None:
        return compiler if name == "CC" else known(name)

    def translate(directory: Path) -> list[tuple[str, list[str], list[str]]]:
        source = directory / "x.c"
        source.touch()
        return [("x", [str(source)], [])]

    def install(_: Path) -> None:
        pytest.fail("nothing was compiled")

    monkeypatch.setattr(sysconfig, "get_config_var", variable)
    monkeypatch.setattr(compiling, "up_to_date", bool)
    monkeypatch.setattr(compiling, "translate", translate)
    monkeypatch.setattr(compiling, "install", install)
    monkeypatch.setattr(sys, "argv", ["compile.py"])
    assert compiling.main() == 0
    assert "hbone runs as plain Python, only slower" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["compile.py", "--must"])
    assert compiling.main() == 1
