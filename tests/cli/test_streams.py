"""Standard streams that the caller closed: commands do their work, and say nothing odd."""

import subprocess
import sys
from pathlib import Path

import pytest

MANIFEST = """\
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: cart-0, namespace: shop}
spec: {address: 127.0.0.9, serviceAccount: cart}
"""


def shell(line: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """`line` with $HBONE in it, in a shell; what it wrote to the streams that were left open."""
    command = ["sh", "-c", line.replace("$HBONE", f"{sys.executable} -m hbone")]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=30, check=False)


def test_a_closed_standard_input_is_an_empty_one(tmp_path: Path) -> None:
    done = shell("$HBONE policy suggest --traffic - <&-", tmp_path)
    assert (done.returncode, done.stderr) == (0, "0 policies from 0 connections\n")


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_verdict_is_told_by_the_exit_code_whatever_is_closed(streams: str, tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / "mesh" / "m.yaml").write_text(MANIFEST)
    asked = "policy explain --manifests mesh --from web/x --to shop/cart-0:80"
    done = shell(f"$HBONE {asked} {streams}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_behind_standard_output_is_told(tmp_path: Path) -> None:
    done = shell("$HBONE policy check . > /dev/full", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[-2]) == (1, "error: no space left on device")


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-1"])
def test_what_a_terminal_s_encoding_lacks_is_no_reason_to_fail(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(MANIFEST)
    asked = "policy explain --manifests . --from web/x --to shop/cart-0:80"
    done = shell(f"PYTHONIOENCODING={encoding} $HBONE {asked}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ALLOW  web/x" in done.stdout
