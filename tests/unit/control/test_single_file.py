"""A single file is looked at twice a second, without a watch."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from hbone.control.manifests_watch import FILE_LOOK_S, FilesWatch
from hbone.errors import InvalidConfiguration, Problem

LIMIT_S = 20


class Watched:
    """A file of words, of which "bad" is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.words: list[str] = []
        self.loads = 0
        self.watch = FilesWatch(path, self._load, self._apply)

    def _load(self, path: Path) -> list[str]:
        self.loads += 1
        words = path.read_text().split()
        if "bad" in words:
            raise InvalidConfiguration([Problem(what="bad", fix="write good", file=str(path), line=1)])
        return words

    def _apply(self, words: list[str]) -> None:
        self.words = words

    async def wait(self, *words: str, problems: int = 0) -> None:
        """Until these words are in force, and so many things are wrong with the file."""
        async with asyncio.timeout(LIMIT_S):
            while self.words != [*words] or len(self.watch.problems) != problems:  # noqa: ASYNC110 -- there is no event
                await asyncio.sleep(0.01)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncGenerator[Watched]:
    path = tmp_path / "words.txt"
    path.write_text("a")
    made = Watched(path)
    await made.watch.load()
    task = asyncio.create_task(made.watch.run(), name="watch")
    yield made
    task.cancel()
    await asyncio.wait([task])


async def test_a_file_is_read_again_when_it_is_written_replaced_gone_and_back(watched: Watched) -> None:
    watched.path.write_text("a b")
    await watched.wait("a", "b")
    other = watched.path.with_name("other.txt")
    other.write_text("c")
    other.replace(watched.path)
    await watched.wait("c")
    watched.path.unlink()
    await watched.wait("c", problems=1)
    watched.path.write_text("d")
    await watched.wait("d")


async def test_a_file_that_is_wrong_is_not_read_at_each_look(watched: Watched) -> None:
    watched.path.write_text("bad")
    await watched.wait("a", problems=1)
    before = watched.loads
    await asyncio.sleep(4 * FILE_LOOK_S)
    assert watched.loads == before


async def test_a_file_is_not_read_while_somebody_writes_it(watched: Watched) -> None:
    loop = asyncio.get_running_loop()
    began, words = loop.time(), ["a"]
    while loop.time() < began + 5 * FILE_LOOK_S:
        words.append("w")
        watched.path.write_text(" ".join(words))
        await asyncio.sleep(0.02)
    assert watched.loads <= 3, "four or five, if each look led to one"
    await watched.wait(*words)


def test_no_watch_is_loaded_for_a_file(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("a")
    code = f"""
import asyncio, sys
from pathlib import Path
from hbone.control.manifests_watch import FilesWatch

async def main():
    path, seen = Path({str(path)!r}), []
    watch = FilesWatch(path, Path.read_text, seen.append)
    await watch.load()
    running = asyncio.ensure_future(watch.run())
    await asyncio.sleep(0.1)
    path.write_text("b")
    while seen[-1] != "b":
        await asyncio.sleep(0.01)
    running.cancel()

asyncio.run(asyncio.wait_for(main(), {LIMIT_S}))
print("watchfiles" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
