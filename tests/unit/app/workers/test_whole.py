"""What several workers say, as one."""

import gc
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, cast

from hbone.app.workers.whole import WholeNode, WholeWindow

CONNECTION = {
    "direction": "outbound",
    "source": "127.0.0.1:5",
    "destination": "127.0.0.1:6",
    "security": "mutual_tls",
    "age_s": 1.0,
    "bytes_sent": 1,
    "bytes_recv": 2,
}


class Answer(list[Any]):
    """Can be watched as it goes."""


class Workers:
    """Two that answer."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[Answer]] = []

    async def ask(self, topics: Iterable[str]) -> dict[int, Mapping[str, Any]]:
        answers = {number: Answer([CONNECTION]) for number in (1, 2)}
        self.given = [weakref.ref(answer) for answer in answers.values()]
        return {number: dict.fromkeys(topics, answer) for number, answer in answers.items()}


async def test_what_workers_said_is_shown_once_with_their_numbers_and_not_kept() -> None:
    crew = Workers()
    node: Any = None
    node = WholeNode(
        settings=node, crew=cast("Any", crew), metrics=node, store=node, local=node, policies=tuple, process=node,
        listeners=tuple, quit=lambda: None,
    )  # fmt: skip
    window = WholeWindow(node)
    await window.before("/connections")
    assert [view.worker for view in window.connections()] == [1, 2]
    gc.collect()
    assert [one() for one in crew.given] == [None, None]
