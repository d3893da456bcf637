"""A stranger's first minutes: a clone, an empty home, no rights, one command."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import NOBODY, Sandbox, User

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 900


def git(*arguments: str, where: Path) -> str:
    command = ("git", "-c", "safe.directory=*", *arguments)
    return subprocess.run(command, cwd=where, check=True, capture_output=True, text=True).stdout


@pytest.mark.soak
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_make_demo_sets_itself_up_in_a_fresh_clone_with_an_empty_home_and_without_rights() -> None:
    """Needs the package registry that pip is set up for. What pip is told by variables, it is told here too."""
    registry = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_CERT"))}
    plain = {**registry, "PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": "", "HBONE_STATE_DIR": ""}
    with Sandbox(User(uid=NOBODY if os.geteuid() == 0 else None)) as sandbox:
        git("clone", "-q", f"file://{ROOT}", str(sandbox.work / "clone"), where=sandbox.work)
        clone = sandbox.work / "clone"
        if os.geteuid() == 0:
            subprocess.run(("chown", "-R", f"{NOBODY}:{NOBODY}", str(clone)), check=True)
        done = sandbox.start_program(("make", "-C", str(clone), "demo"), env=plain).wait(LIMIT_S)
        assert "claims hold" in done.expect(0).out
        assert git("status", "--porcelain", where=clone) == ""
        assert [path.name for path in sandbox.home.iterdir()] in ([], [".cache"])
