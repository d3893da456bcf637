"""What agent and worker say, as bytes."""

import pytest

from hbone.app.workers.messages import (
    MAX_MESSAGE_BYTES,
    PREFIX,
    Ask,
    Begin,
    Drain,
    InvalidMessage,
    Levels,
    Message,
    Said,
    Waiting,
    decode,
    encode,
    length_of,
)

MESSAGES: tuple[Message, ...] = (
    Begin(number=2, settings={"mode": "shared"}, feeds={"XDS": "/x"}, directory="/d", turn="/t", levels="info"),
    Ask(id=1, topics=["connections"]),
    Levels(text="debug"),
    Drain(),
    Waiting(pending=["state manager"]),
    Said(id=1, topics={"metrics": "# EOF\n", "connections": [{"age_s": 1.5}]}),
)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_is_read_as_it_was_written(message: Message) -> None:
    written = encode(message)
    assert length_of(written[: PREFIX.size]) == len(written) - PREFIX.size
    assert decode(written[PREFIX.size :]) == message


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"kind":"Ask"}', b'{"kind":"Ask","says":{"x":1}}', b"\xff"])
def test_anything_else_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidMessage):
        decode(body)


def test_a_length_beyond_the_limit_is_refused_before_anything_is_read() -> None:
    with pytest.raises(InvalidMessage, match="limit"):
        length_of(PREFIX.pack(MAX_MESSAGE_BYTES + 1))
