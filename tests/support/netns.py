"""Network namespaces for tests: two machines on a wire, as root; nothing of them outlives the test.

A namespace is held by a descriptor alone, without a name in the system. Sockets that are made, and processes that
are started, inside of `with namespace.entered():` belong to it for ever.
"""

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
_OWN: Final = Path("/proc/thread-self/ns/net")
_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespaces(LookupError):
    """This machine, or this user, cannot make them: the reason."""


class Namespace:
    """One machine, as far as the network goes."""

    def __init__(self) -> None:
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_libc.unshare(CLONE_NEWNET))
            self._fd = os.open(_OWN, os.O_RDONLY)
            self.run("ip", "link", "set", "lo", "up")
        finally:
            _check(_libc.setns(before, CLONE_NEWNET))
            os.close(before)

    @contextlib.contextmanager
    def entered(self) -> Generator[None]:
        """This thread is in the namespace meanwhile."""
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_libc.setns(self._fd, CLONE_NEWNET))
            yield
        finally:
            _check(_libc.setns(before, CLONE_NEWNET))
            os.close(before)

    @staticmethod
    def run(*command: str, given: str = "") -> None:
        """A program to its end, in the namespace that this thread is in."""
        subprocess.run(command, input=given, text=True, check=True, capture_output=True, timeout=20)

    def close(self) -> None:
        """The end of it, when the last socket and process of it is gone."""
        os.close(self._fd)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextlib.contextmanager
def two_machines(here: tuple[str, ...], there: tuple[str, ...]) -> Generator[tuple[Namespace, Namespace]]:
    """Two namespaces whose only link, `wire` in both, has these addresses (with prefix). Raises NoNamespaces."""
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            raise NoNamespaces(f"{program} is not installed")
    with contextlib.ExitStack() as undo:
        try:
            first, second = Namespace(), Namespace()
        except (OSError, subprocess.SubprocessError) as error:
            raise NoNamespaces(f"no network namespace can be made: {error}") from error
        undo.callback(first.close)
        undo.callback(second.close)
        with second.entered(), subprocess.Popen(("sleep", "60")) as holder:  # `ip` takes a process for a namespace
            try:
                with first.entered():
                    peer = ("peer", "name", "wire", "netns", str(holder.pid))
                    first.run("ip", "link", "add", "wire", "type", "veth", *peer)
            except subprocess.SubprocessError as error:
                raise NoNamespaces(f"no pair of interfaces can be made: {error}") from error
            finally:
                holder.kill()
        for namespace, addresses in ((first, here), (second, there)):
            with namespace.entered():
                for address in addresses:
                    namespace.run("ip", "address", "add", address, "dev", "wire")
                namespace.run("ip", "link", "set", "wire", "up")
        yield first, second


def redirect_inbound(to: int, *, but: tuple[int, ...]) -> None:
    """What comes in by the wire goes to port `to`, except to the ports of `but`; in the namespace entered."""
    kept = ", ".join(map(str, (to, *but)))
    rule = f'iifname "wire" tcp dport != {{ {kept} }} redirect to :{to}'
    chain = f"chain inbound {{\ntype nat hook prerouting priority -100;\n{rule}\n}}"
    Namespace.run("nft", "-f", "-", given=f"table ip capture {{\n{chain}\n}}\n")
