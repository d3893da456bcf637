"""Frames as bytes: RFC 9113 §4.1 and §6, against the hand-made ones of tests/support."""

import pytest

from hbone.protocol import frames
from tests.support import h2frames
from tests.support.h2frames import Frame, parse


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (frames.end_of_stream(3), h2frames.data(3, end=True)),
        (frames.rst_stream(5, 8), h2frames.rst_stream(5, 8)),
        (frames.window_update(0, 1000), h2frames.window_update(0, 1000)),
        (frames.ping(b"12345678"), h2frames.ping(b"12345678")),
        (frames.ping(b"12345678", frames.ACK), h2frames.ping(b"12345678", ack=True)),
        (frames.goaway(7, 2, b"why"), h2frames.goaway(7, 2, b"why")),
        (frames.settings({4: 70_000, 5: 16_384}), h2frames.settings({4: 70_000, 5: 16_384})),
        (frames.frame(0x1F, 0xFF, 9, b"x" * 70_000), h2frames.raw(0x1F, 0xFF, 9, b"x" * 70_000)),
    ],
)
def test_a_frame_is_written_as_the_rfc_draws_it(built: bytes, expected: bytes) -> None:
    assert built == expected


def test_of_a_setting_that_comes_twice_the_later_counts() -> None:
    payload = h2frames.settings({4: 1})[9:] + h2frames.settings({4: 2, 9: 3})[9:]
    assert frames.parse_settings(payload) == {4: 2, 9: 3}  # §6.5.3


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (10, [("HEADERS", 5, 10)]),
        (11, [("HEADERS", 1, 10), ("CONTINUATION", 4, 1)]),
        (25, [("HEADERS", 1, 10), ("CONTINUATION", 0, 10), ("CONTINUATION", 4, 5)]),
    ],
)
def test_a_long_block_goes_on_in_continuation_frames(size: int, expected: list[tuple[str, int, int]]) -> None:
    block = bytes(range(size))
    found: list[Frame] = parse(frames.header_frames(3, block, frames.END_STREAM, 10))
    assert [(frame.name, frame.flags, len(frame.payload)) for frame in found] == expected
    assert b"".join(frame.payload for frame in found) == block
    assert {frame.stream_id for frame in found} == {3}


@pytest.mark.parametrize(("kind", "name"), [(0, "DATA"), (9, "CONTINUATION"), (10, "0xa"), (255, "0xff")])
def test_a_frame_type_has_a_name_or_its_number(kind: int, name: str) -> None:
    assert frames.frame_name(kind) == name
