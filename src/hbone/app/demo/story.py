"""Tells the demo: what stands where, each claim with what was seen, and the verdict."""

import sys
import time
from contextlib import AsyncExitStack
from typing import Final, TextIO

from hbone.app.demo.claims import CLAIMS, Evidence
from hbone.app.demo.stage import Stage
from hbone.app.run import Stop
from hbone.errors import HboneError
from hbone.values import dataclass

INTRODUCTION: Final = """\
A mesh on this machine: two nodes, each the proxy of the programs beside it. The programs
speak plain TCP and HTTP; between the nodes everything travels in tunnels (HTTP/2 CONNECT
over mutual TLS), and every workload has a certificate with its name in it.

  machine A                                         machine B
  web/client   127.10.0.11 --+
  batch/job    127.10.0.12 --+-- node a ==[wire]== node b -- shop/api  127.10.0.21
  shop/echo    127.10.0.13 --+                               (an HTTP server)
  (a TCP echo)                     certificates from one control plane
"""


class Teller:
    """Writes for a person; colour only on a terminal."""

    def __init__(self, out: TextIO, *, colour: bool) -> None:
        self._out = out
        self._colour = colour

    def say(self, text: str = "") -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def good(self, text: str) -> None:
        self.say(f"   {self._paint('ok', '32')}  {text}")

    def bad(self, text: str) -> None:
        self.say(f"   {self._paint('FAILED', '31;1')}  {text}")

    def quote(self, text: str) -> None:
        self.say(f"       {self._paint(text, '2')}")

    def heading(self, text: str) -> None:
        self.say()
        self.say(self._paint(text, "1"))

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text


async def tell(stop: Stop, *, keep: bool, colour: bool) -> int:
    """Play it; 0 when every claim held, 1 when one did not, 130 when it was stopped before its end."""
    teller = Teller(sys.stdout, colour=colour)
    teller.say(INTRODUCTION)
    try:
        async with AsyncExitStack() as undo:
            played = await stop.unless_set(_play(undo, teller))
            if played is None:
                teller.heading("Interrupted: everything is taken down.")
                return 130
            if keep:
                await _keep(played.stage, teller, stop)
    except HboneError as error:
        teller.bad(str(error))
        return 1
    return 1 if played.failed else 0


@dataclass(frozen=True, slots=True)
class _Played:
    """The demo after its last claim."""

    stage: Stage
    failed: int


async def _play(undo: AsyncExitStack, teller: Teller) -> _Played:
    """Put up what `undo` takes down, and try every claim."""
    started = time.monotonic()
    stage = await undo.enter_async_context(Stage())
    teller.say(f"Everything is up after {time.monotonic() - started:.1f} s.")
    failed = 0
    for number, (title, claim) in enumerate(CLAIMS, 1):
        teller.heading(f"{number}. {title}")
        try:
            _show(await claim(stage), teller)
        except (HboneError, OSError) as error:
            failed += 1
            teller.bad(str(error))
    seconds = time.monotonic() - started
    teller.say()
    if failed:
        teller.say(
            f"{failed} of {len(CLAIMS)} claims failed ({seconds:.0f} s); `hbone doctor` says what this machine lacks."
        )
    else:
        teller.say(f"All {len(CLAIMS)} claims hold ({seconds:.0f} s).")
    return _Played(stage, failed)


def _show(evidence: Evidence, teller: Teller) -> None:
    for line in evidence.seen:
        teller.good(line)
    for line in evidence.quotes:
        teller.quote(line)


async def _keep(stage: Stage, teller: Teller, stop: Stop) -> None:
    teller.say(f"""
It stays up until Ctrl-C. Try, in another terminal:
  curl --interface 127.10.0.11 --socks5-hostname {stage.socks} http://api.shop.demo/
  cat {stage.mesh_directory}/mesh.yaml
  tail -f {stage.node_b.out}""")
    await stop.wait()
