"""A CA in a directory: made once, private, whole."""

import os
import threading
from pathlib import Path

import pytest

from hbone.ca.authority import CertificateAuthority
from hbone.control.cadir import load, load_or_create, store
from hbone.errors import InvalidConfiguration, UsageError
from hbone.identity.spiffe import TrustDomain
from hbone.net.clock import SystemClock, system_rng

DOMAIN = TrustDomain("cluster.local")


def open_or_make(directory: Path) -> CertificateAuthority:
    return load_or_create(directory, DOMAIN, clock=SystemClock(), rng=system_rng())


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


def test_the_first_use_makes_a_ca_and_the_next_one_finds_it(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "ca"
    made = open_or_make(directory)
    assert open_or_make(directory) == made
    assert mode(directory) == 0o700
    assert mode(directory / "ca-key.pem") == mode(directory / "root-key.pem") == 0o600
    assert [path.name for path in directory.parent.iterdir()] == ["ca"], "no temporary directory is left"


def test_an_empty_directory_is_filled(tmp_path: Path) -> None:
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o755)
    open_or_make(directory)
    assert mode(directory) == 0o700


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        open_or_make(tmp_path / "ca")
    finally:
        os.umask(before)
    assert mode(tmp_path / "ca" / "ca-key.pem") == 0o600


def test_two_starts_at_once_get_the_same_ca(tmp_path: Path) -> None:
    directory, made = tmp_path / "ca", list[CertificateAuthority]()
    barrier = threading.Barrier(4)

    def start() -> None:
        barrier.wait()
        made.append(open_or_make(directory))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert all(authority == made[0] for authority in made)
    assert [path.name for path in tmp_path.iterdir()] == ["ca"]


@pytest.mark.parametrize(("name", "to"), [("", 0o750), ("ca-key.pem", 0o640), ("root-key.pem", 0o604)])
def test_a_place_that_others_can_look_into_is_refused_with_the_remedy(tmp_path: Path, name: str, to: int) -> None:
    open_or_make(tmp_path / "ca")
    loose = tmp_path / "ca" / name if name else tmp_path / "ca"
    loose.chmod(to)
    with pytest.raises(InvalidConfiguration, match=f"mode {to:04o} lets others in; chmod 0[67]00 {loose}"):
        open_or_make(tmp_path / "ca")
    loose.chmod(0o700 if not name else 0o600)
    open_or_make(tmp_path / "ca")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_place_that_belongs_to_somebody_else_is_refused(tmp_path: Path) -> None:
    open_or_make(tmp_path / "ca")
    os.chown(tmp_path / "ca", 12345, -1)
    with pytest.raises(InvalidConfiguration, match="belongs to user 12345"):
        open_or_make(tmp_path / "ca")


def test_a_directory_with_something_else_in_it_is_not_touched(tmp_path: Path) -> None:
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    (directory / "notes.txt").write_text("mine")
    with pytest.raises(InvalidConfiguration, match=r"ca-cert\.pem: the file is missing"):
        open_or_make(directory)
    assert [path.name for path in directory.iterdir()] == ["notes.txt"]


def test_broken_files_are_named_with_their_path(tmp_path: Path) -> None:
    open_or_make(tmp_path / "ca")
    (tmp_path / "ca" / "ca-cert.pem").write_text("no")
    with pytest.raises(InvalidConfiguration, match=f"{tmp_path}/ca/ca-cert.pem: no PEM certificates"):
        open_or_make(tmp_path / "ca")


def test_a_mounted_ca_is_read_whoever_owns_it_but_not_if_others_may_write_the_key(tmp_path: Path) -> None:
    made = open_or_make(tmp_path / "ca")
    (tmp_path / "ca").chmod(0o755)
    (tmp_path / "ca" / "ca-key.pem").chmod(0o644)
    assert load(tmp_path / "ca", DOMAIN, clock=SystemClock()) == made
    (tmp_path / "ca" / "ca-key.pem").chmod(0o646)
    with pytest.raises(InvalidConfiguration, match="others may write this key"):
        load(tmp_path / "ca", DOMAIN, clock=SystemClock())


def test_kubernetes_symlinks_are_followed(tmp_path: Path) -> None:
    made = open_or_make(tmp_path / "..data")
    mount = tmp_path / "mount"
    mount.mkdir()
    for name in ("ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"):
        (mount / name).symlink_to(tmp_path / "..data" / name)
    assert load(mount, DOMAIN, clock=SystemClock()).roots == made.roots


def test_what_is_no_directory_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for use in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used"):
            open_or_make(use)
    with pytest.raises(UsageError, match="No such file"):
        load(tmp_path / "absent", DOMAIN, clock=SystemClock())


def test_an_oversized_file_is_not_read_whole(tmp_path: Path) -> None:
    open_or_make(tmp_path / "ca")
    (tmp_path / "ca" / "root-cert.pem").write_bytes(b"x" * (2 << 20))
    with pytest.raises(InvalidConfiguration, match=r"root-cert\.pem: over 1048576 bytes"):
        open_or_make(tmp_path / "ca")


def test_an_authority_is_stored_only_where_nothing_is(tmp_path: Path) -> None:
    made = open_or_make(tmp_path / "ca")
    store(tmp_path / "copy", made)
    assert open_or_make(tmp_path / "copy") == made
    with pytest.raises(UsageError, match="is not empty"):
        store(tmp_path / "copy", made)
