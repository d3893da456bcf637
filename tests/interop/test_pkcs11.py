"""The CA's keys on a real PKCS#11 token, SoftHSM's. Skipped by name where it, or the package, is not installed."""

import os
import shutil
import subprocess
from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path

import pytest

from hbone.app.control import Control
from hbone.app.place import Place
from hbone.ca.generations import Generations
from hbone.config.model import ControlSettings
from hbone.control.ca_client import CaClient
from hbone.control.channel import UnixEndpoint
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.verify import PeerSide, verify_peer
from hbone.net.clock import SystemClock
from tests.support.controlplane import spiffe

MODULES = (
    os.environ.get("HBONE_TEST_SOFTHSM", ""),
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
)
MODULE = next((Path(path) for path in MODULES if path and Path(path).exists()), None)
TOOL = os.environ.get("HBONE_TEST_SOFTHSM_UTIL") or shutil.which("softhsm2-util")

LABELS = ("first", "second", "third")

pytestmark = [
    pytest.mark.usefixtures("tokens"),
    pytest.mark.interop,
    pytest.mark.skipif(MODULE is None or TOOL is None, reason="needs SoftHSM (apt install softhsm2)"),
    pytest.mark.skipif(find_spec("pkcs11") is None, reason="needs python-pkcs11 (pip install 'hbone[pkcs11]')"),
]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Where SoftHSM keeps its tokens; it reads that once in a process."""
    directory = tmp_path_factory.mktemp("softhsm")
    (directory / "tokens").mkdir()
    config = directory / "softhsm.conf"
    config.write_text(f"directories.tokendir = {directory}/tokens\nlog.level = ERROR\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(config))
        for label in LABELS:
            init = ["--init-token", "--free", "--label", label, "--pin", "1234", "--so-pin", "5678"]
            subprocess.run([str(TOOL), "--module", str(MODULE), *init], check=True, capture_output=True)
        yield


def settings(directory: Path, label: str) -> dict[str, object]:
    """A control plane's, for one of the tokens."""
    pin = directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    pkcs11 = {"module": str(MODULE), "token": label, "pin_file": str(pin)}
    return {"state_dir": str(directory / "state"), "pkcs11": pkcs11}


def control(given: dict[str, object], **more: object) -> Control:
    state = Path(str(given["state_dir"]))
    made = ControlSettings.model_validate({**given, **more})
    return Control(made, Place(environment={}, state_dir=state))


async def test_a_ca_whose_keys_are_on_a_token_issues_rotates_and_starts_again(tmp_path: Path) -> None:
    given = settings(tmp_path, LABELS[0])
    state = Path(str(given["state_dir"]))
    endpoint = UnixEndpoint(state / "control.sock")
    async with control(given) as first:
        root = first.ca.authorities.now.roots
        credentials = await CaClient(endpoint, ttl_s=60).fetch(spiffe("shop", "cart"))
        bundle, now = first.ca.trust.bundle, SystemClock().wall()
        verify_peer(credentials.svid.chain, bundle, expected=None, side=PeerSide.SERVER, now=now)
        authorities = first.ca.authorities
        await authorities.add(await authorities.new_intermediate(), Generations.with_intermediate, "rotated")
    assert not (state / "ca" / "ca-key.pem").exists()
    assert not (state / "ca" / "keys").exists(), "no key in any file"
    async with control(given) as again:
        assert again.ca.authorities.now.roots == root
        await CaClient(endpoint, ttl_s=60).fetch(spiffe("shop", "cart"))
        assert len(again.ca.trust.current.crls) == 3, "of both intermediates and the root, signed on the token"


async def test_keys_in_files_move_to_the_token_by_a_rotation(tmp_path: Path) -> None:
    given = settings(tmp_path, LABELS[1])
    state = Path(str(given["state_dir"]))
    async with control(given, pkcs11=None):
        assert len(list((state / "ca" / "keys").iterdir())) == 2
    async with control(given) as later:
        authorities, now = later.ca.authorities, SystemClock().wall()
        await authorities.add(await authorities.new_root(), Generations.prepare, "prepared")
        for step in (Generations.publish, Generations.activate, Generations.retire):
            await authorities.change(lambda all_, step=step: step(all_, now), step.__name__)  # type: ignore[misc]
        assert list((state / "ca" / "keys").iterdir()) == []


async def test_a_wrong_pin_or_label_is_said(tmp_path: Path) -> None:
    given = settings(tmp_path, LABELS[2])
    (tmp_path / "pin").write_text("9999")
    with pytest.raises(UsageError, match=r"the token 'third' of .* cannot be used"):
        await control(given).__aenter__()
    (tmp_path / "pin").chmod(0o644)
    with pytest.raises(InvalidConfiguration, match="chmod 0600"):
        await control(given).__aenter__()
