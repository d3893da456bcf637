"""The one buffer of outgoing bytes."""

import pytest

from hbone.errors import UsageError
from hbone.protocol.outbox import CAPACITY_BYTES, CONTROL_BYTES, Buffer, BufferPool, Outbox, OutboxOverflow
from tests.support import h2frames
from tests.support.h2frames import drain


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool()


@pytest.fixture
def outbox(pool: BufferPool) -> Outbox:
    return Outbox(pool)


def fill(outbox: Outbox) -> int:
    """Reserve and commit all that fits; returns the payload bytes."""
    room = outbox.room()
    outbox.reserve(CAPACITY_BYTES)
    outbox.commit(1, room)
    return room


def test_frames_come_out_in_the_order_of_calls_as_one_piece(outbox: Outbox) -> None:
    outbox.append(h2frames.ping())
    space = outbox.reserve(100)
    space[:5] = b"hello"
    outbox.commit(3, 5, flags=1)
    outbox.append(h2frames.rst_stream(5))
    expected = h2frames.ping() + h2frames.data(3, b"hello", end=True) + h2frames.rst_stream(5)
    assert len(outbox) == len(expected)
    assert bytes(outbox.pending()) == expected


def test_what_is_pending_stays_the_same_until_it_is_written(outbox: Outbox) -> None:
    outbox.append(b"first")
    before = bytes(outbox.pending())
    outbox.append(b"second")
    assert bytes(outbox.pending()) == before == b"first"
    outbox.advance(5)
    assert bytes(outbox.pending()) == b"second"


def test_after_a_partial_write_the_rest_and_what_queued_behind_it_is_pending(outbox: Outbox) -> None:
    outbox.append(b"first")
    outbox.pending()
    outbox.advance(2)
    outbox.append(b"second")
    assert bytes(outbox.pending()) == b"rstsecond"
    outbox.advance(9)
    assert not outbox


def test_an_empty_outbox_owns_no_buffer(pool: BufferPool, outbox: Outbox) -> None:
    assert bytes(outbox.pending()) == b""
    outbox.append(b"x")
    assert len(pool) == 0
    outbox.pending()
    outbox.advance(1)
    assert len(pool) == 1
    assert not outbox
    assert len(outbox) == 0


def test_a_reservation_that_nothing_filled_gives_the_buffer_back(pool: BufferPool, outbox: Outbox) -> None:
    outbox.reserve(10)
    assert len(pool) == 0
    outbox.abandon()
    assert len(pool) == 1


def test_a_forgotten_reservation_gives_the_buffer_back_at_the_next_look(pool: BufferPool, outbox: Outbox) -> None:
    outbox.reserve(10)
    assert bytes(outbox.pending()) == b""
    assert len(pool) == 1


def test_abandoning_keeps_what_waits(outbox: Outbox) -> None:
    outbox.append(b"x")
    outbox.reserve(10)
    outbox.abandon()
    assert drain(outbox) == b"x"


def test_a_reservation_outlives_the_write_of_what_was_before_it(outbox: Outbox) -> None:
    outbox.append(b"x")
    outbox.pending()
    space = outbox.reserve(3)
    outbox.advance(1)
    space[:] = b"abc"
    outbox.commit(1, 3)
    assert drain(outbox) == h2frames.data(1, b"abc")


def test_a_discarded_outbox_is_empty_and_usable(pool: BufferPool, outbox: Outbox) -> None:
    fill(outbox)
    outbox.append(bytes(CONTROL_BYTES + 1))  # into the spill
    outbox.discard()
    assert not outbox
    assert len(pool) == 1
    outbox.append(b"x")
    assert drain(outbox) == b"x"


def test_committing_more_than_was_reserved_is_refused(outbox: Outbox) -> None:
    outbox.reserve(10)
    with pytest.raises(UsageError, match="11 bytes of DATA committed, 10 reserved"):
        outbox.commit(1, 11)
    outbox.commit(1, 10)
    with pytest.raises(UsageError, match="0 reserved"):
        outbox.commit(1, 1)


def test_a_frame_in_between_ends_a_reservation(outbox: Outbox) -> None:
    outbox.reserve(10)
    outbox.append(b"x")
    with pytest.raises(UsageError):
        outbox.commit(1, 1)
    outbox.reserve_many(10, 5)
    outbox.append(b"x")
    with pytest.raises(UsageError):
        outbox.commit_many(1, 1, 5)


def test_advancing_beyond_what_was_pending_is_refused(outbox: Outbox) -> None:
    outbox.append(b"x")
    outbox.pending()
    outbox.append(b"y")
    with pytest.raises(UsageError, match="2 bytes written of 1"):
        outbox.advance(2)


@pytest.mark.parametrize("limit", [0, -1])
def test_reserving_nothing_takes_no_buffer(pool: BufferPool, limit: int) -> None:
    pool.release(Buffer())
    outbox = Outbox(pool)
    assert len(outbox.reserve(limit)) == 0
    assert outbox.reserve_many(limit, 100) == []
    assert len(pool) == 1


def test_a_full_buffer_has_no_room_and_still_takes_control_frames(outbox: Outbox) -> None:
    room = outbox.room()
    assert fill(outbox) == room
    assert outbox.room() == 0
    assert len(outbox.reserve(1)) == 0
    assert outbox.reserve_many(1, 1) == []
    outbox.append(h2frames.ping())
    assert len(outbox) == 9 + room + 17


def test_frames_beyond_the_buffer_wait_in_the_spill_and_keep_their_order(outbox: Outbox) -> None:
    room = fill(outbox)
    big = bytes(CONTROL_BYTES)
    outbox.append(big)
    outbox.append(b"first")
    outbox.append(b"second")
    assert len(outbox) == 9 + room + len(big) + 11
    assert outbox.room() == 0
    assert len(outbox.reserve(1)) == 0
    assert outbox.reserve_many(1, 1) == []
    assert drain(outbox)[-11:] == b"firstsecond"
    assert outbox.room() == room


def test_a_write_that_empties_the_buffer_takes_the_spill_next(outbox: Outbox) -> None:
    fill(outbox)
    outbox.append(bytes(CONTROL_BYTES))
    outbox.append(b"spilled")
    outbox.advance(len(outbox.pending()))
    assert bytes(outbox.pending()) == b"spilled"


def test_the_spill_is_bounded_and_a_refused_frame_leaves_no_trace(pool: BufferPool) -> None:
    outbox = Outbox(pool, max_spill_bytes=10)
    fill(outbox)
    outbox.append(bytes(CONTROL_BYTES))
    outbox.append(b"0123456789")
    before = len(outbox)
    with pytest.raises(OutboxOverflow, match="more than 10 bytes of answers"):
        outbox.append(b"x")
    assert len(outbox) == before


def test_a_spill_larger_than_a_buffer_is_refused(pool: BufferPool) -> None:
    with pytest.raises(UsageError):
        Outbox(pool, max_spill_bytes=CAPACITY_BYTES + 1)


@pytest.mark.parametrize("before", [b"", b"control"])
@pytest.mark.parametrize(
    ("limit", "frame_bytes", "n", "sizes"),
    [
        (300, 100, 300, [100, 100, 100]),
        (250, 100, 250, [100, 100, 50]),
        (250, 100, 120, [100, 20]),
        (250, 100, 100, [100]),
        (250, 100, 7, [7]),
        (50, 100, 50, [50]),
    ],
)
def test_many_frames_are_filled_by_one_read(
    outbox: Outbox, before: bytes, limit: int, frame_bytes: int, n: int, sizes: list[int]
) -> None:
    if before:
        outbox.append(before)
    payload = bytes(range(256))[:n] + bytes(max(0, n - 256))
    rest = payload
    spaces = outbox.reserve_many(limit, frame_bytes)
    assert sum(map(len, spaces)) == limit
    for space in spaces:  # as recvmsg_into does
        part, rest = rest[: len(space)], rest[len(space) :]
        space[: len(part)] = part
    outbox.commit_many(3, n, frame_bytes)
    taken = h2frames.parse(drain(outbox)[len(before) :])
    assert [len(frame.payload) for frame in taken] == sizes
    assert b"".join(frame.payload for frame in taken) == payload


def test_many_frames_fill_the_buffer_and_no_more(outbox: Outbox) -> None:
    spaces = outbox.reserve_many(10**9, 16_375)
    total = sum(map(len, spaces))
    outbox.commit_many(1, total, 16_375)
    assert CAPACITY_BYTES - CONTROL_BYTES - 9 <= len(outbox) <= CAPACITY_BYTES - CONTROL_BYTES
    assert h2frames.parse(drain(outbox))[0].stream_id == 1


def test_in_a_bulk_transfer_the_same_spaces_serve_each_turn(outbox: Outbox) -> None:
    first = outbox.reserve_many(1000, 300)
    outbox.abandon()
    assert outbox.reserve_many(1000, 300) is first
    outbox.abandon()
    for limit in range(1, 20):  # and a changing limit does not make the memory of them grow
        outbox.reserve_many(limit, 300)
        outbox.abandon()
    assert outbox.reserve_many(1000, 300) is not first


def test_the_pool_keeps_a_bounded_number_of_buffers_and_undoes_the_rest() -> None:
    pool = BufferPool(max_free=1)
    kept, dropped = pool.acquire(), pool.acquire()
    dropped.layouts[1, 1] = [dropped.view[:1]]
    pool.release(kept)
    pool.release(dropped)
    assert len(pool) == 1
    assert not dropped.layouts  # no reference to itself is left: the memory goes with the last reference
    assert len(dropped.view) == 0
    assert pool.acquire() is kept
