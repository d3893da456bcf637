"""A CA in a directory: private, whole, ours or plugged in."""

import os
from pathlib import Path

import pytest

from hbone.ca.authority import CertificateAuthority
from hbone.control.cadir import load, load_own
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock
from tests.support.cafiles import whole_ca

DOMAIN = TrustDomain("cluster.local")


def opened(directory: Path) -> CertificateAuthority | None:
    return load_own(directory, DOMAIN, clock=SystemClock())


def test_our_own_ca_is_found_again_and_none_where_there_is_none(tmp_path: Path) -> None:
    made = whole_ca(tmp_path / "ca")
    assert opened(tmp_path / "ca") == made
    assert opened(tmp_path / "absent") is None
    (tmp_path / "keys alone" / "keys").mkdir(parents=True)
    (tmp_path / "keys alone").chmod(0o700)
    assert opened(tmp_path / "keys alone") is None


@pytest.mark.parametrize(("name", "to"), [("", 0o750), ("ca-key.pem", 0o640), ("root-key.pem", 0o604)])
def test_a_place_that_others_can_look_into_is_refused_with_the_remedy(tmp_path: Path, name: str, to: int) -> None:
    whole_ca(tmp_path / "ca")
    loose = tmp_path / "ca" / name if name else tmp_path / "ca"
    loose.chmod(to)
    with pytest.raises(InvalidConfiguration, match=f"mode {to:04o} lets others in; chmod 0[67]00 {loose}"):
        opened(tmp_path / "ca")
    loose.chmod(0o700 if not name else 0o600)
    opened(tmp_path / "ca")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_place_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    whole_ca(tmp_path / "ca")
    os.chown(tmp_path / "ca", 12345, -1)
    with pytest.raises(InvalidConfiguration, match="belongs to user 12345"):
        opened(tmp_path / "ca")


def test_a_directory_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(InvalidConfiguration, match=r"ca-cert\.pem: the file is missing"):
        opened(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


def test_broken_files_are_named_with_their_path(tmp_path: Path) -> None:
    whole_ca(tmp_path / "ca")
    (tmp_path / "ca" / "ca-cert.pem").write_text("no")
    with pytest.raises(InvalidConfiguration, match=f"{tmp_path}/ca/ca-cert.pem: no PEM certificates"):
        opened(tmp_path / "ca")


def test_a_mounted_ca_is_read_whoever_owns_it_but_not_if_others_may_write_the_key(tmp_path: Path) -> None:
    made = whole_ca(tmp_path / "ca")
    (tmp_path / "ca").chmod(0o755)
    (tmp_path / "ca" / "ca-key.pem").chmod(0o644)
    assert load(tmp_path / "ca", DOMAIN, clock=SystemClock()) == made
    (tmp_path / "ca" / "ca-key.pem").chmod(0o646)
    with pytest.raises(InvalidConfiguration, match="others may write this key"):
        load(tmp_path / "ca", DOMAIN, clock=SystemClock())


def test_kubernetes_symlinks_are_followed(tmp_path: Path) -> None:
    made = whole_ca(tmp_path / "..data")
    mount = tmp_path / "mount"
    mount.mkdir()
    for name in ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"):
        (mount / name).symlink_to(tmp_path / "..data" / name)
    assert load(mount, DOMAIN, clock=SystemClock()).roots == made.roots


def test_what_is_no_directory_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used"):
            opened(use)
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "absent", DOMAIN, clock=SystemClock())


def test_an_oversized_file_is_not_read_whole(tmp_path: Path) -> None:
    whole_ca(tmp_path / "ca")
    (tmp_path / "ca" / "root-cert.pem").write_bytes(b"x" * (2 << 20))
    with pytest.raises(InvalidConfiguration, match=r"root-cert\.pem: over 1048576 bytes"):
        opened(tmp_path / "ca")
