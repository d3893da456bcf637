"""Bytes that wait for the one TLS write of a loop turn.

All frames of a connection share one buffer. A socket read puts application bytes straight behind a 9-byte gap, and the
DATA header is written into the gap once their number is known, so that coalescing many streams into one TLS write costs
no copy. Control frames that find the buffer full wait in a bounded spill; while it holds any, no DATA may be reserved,
so the order of frames is the order of calls.

    buffer:  | taken by TLS | in flight (pending) | queued behind | gap | reserved payload | free |
                            ^ head                ^ flight        ^ tail

`pending()` keeps returning the same bytes until `advance()`, since OpenSSL insists on that after WANT_WRITE. A
connection that has nothing to send owns no buffer.
"""

from struct import Struct
from typing import Final

from hbone.errors import TunnelFailure, UsageError
from hbone.protocol.frames import DATA, FRAME_HEADER_BYTES

CAPACITY_BYTES: Final = 320 * 1024
"""A turn's worth: 16 reads of 16 KiB with their headers, and what of the next turn fits while a write is stuck."""
CONTROL_BYTES: Final = 4096
"""Kept free of DATA, so that WINDOW_UPDATE and HEADERS of a busy turn seldom need the spill."""
MAX_SPILL_BYTES: Final = 256 * 1024
MAX_FREE_BUFFERS: Final = 32
"""10 MiB kept for reuse in a process; more connections than that writing at once allocate (20 µs each)."""
MAX_LAYOUTS: Final = 4
"""Layouts of `reserve_many` remembered per buffer: in the steady state of a bulk transfer there is just one."""

_DATA_LIMIT: Final = CAPACITY_BYTES - CONTROL_BYTES
_DATA_HEADER: Final = Struct(">HBBBL")
_EMPTY: Final = memoryview(b"")


class OutboxOverflow(TunnelFailure):
    """The peer makes us answer and does not read; the connection must be dropped. Attribute: `limit_bytes`."""


class Buffer:
    """The view of a buffer, and the slices of it that bulk transfers use each turn."""

    __slots__ = ("layouts", "view")

    def __init__(self, size: int = CAPACITY_BYTES) -> None:
        self.view = memoryview(bytearray(size))
        self.layouts: dict[tuple[int, int], list[memoryview]] = {}

    def drop(self) -> None:
        """Let the memory go at once, though slices may refer to each other."""
        self.layouts.clear()
        self.view = _EMPTY


class BufferPool:
    """Free buffers of `CAPACITY_BYTES`; shared by the connections of a process."""

    __slots__ = ("_free", "_max_free")

    def __init__(self, *, max_free: int = MAX_FREE_BUFFERS) -> None:
        self._free: list[Buffer] = []
        self._max_free = max_free

    def acquire(self) -> Buffer:
        """A buffer whose content is arbitrary."""
        return self._free.pop() if self._free else Buffer()

    def release(self, buffer: Buffer) -> None:
        if len(self._free) < self._max_free:
            self._free.append(buffer)
        else:
            buffer.drop()

    def __len__(self) -> int:
        """Buffers that lie ready."""
        return len(self._free)


class Outbox:
    """The outgoing side of one connection; see the module's text. No byte is ever dropped or overtaken."""

    __slots__ = ("_buffer", "_flight", "_head", "_max_spill", "_pool", "_reserved", "_spill", "_tail", "_view")

    def __init__(self, pool: BufferPool, *, max_spill_bytes: int = MAX_SPILL_BYTES) -> None:
        if max_spill_bytes > CAPACITY_BYTES:
            raise UsageError(f"a spill of {max_spill_bytes} bytes", fix=f"use at most {CAPACITY_BYTES}, one buffer")
        self._pool = pool
        self._max_spill = max_spill_bytes
        self._buffer: Buffer | None = None
        self._view = _EMPTY  # of the buffer
        self._head = self._flight = self._tail = 0
        self._reserved = -1  # payload bytes that `commit` may name, -1 for no reservation
        self._spill = bytearray()

    def append(self, frame: bytes) -> None:
        """Queue whole frames. Ends a reservation. Raises OutboxOverflow, and then has not taken the frame."""
        self._reserved = -1
        if self._buffer is None:
            self._open()
        tail = self._tail + len(frame)
        if self._spill or tail > CAPACITY_BYTES:
            if len(self._spill) + len(frame) > self._max_spill:
                raise OutboxOverflow(
                    f"more than {self._max_spill} bytes of answers wait for a peer that does not read",
                    limit_bytes=self._max_spill,
                )
            self._spill += frame
            return
        self._view[self._tail : tail] = frame
        self._tail = tail

    def room(self) -> int:
        """Payload bytes that one DATA frame could hold now."""
        return 0 if self._spill else max(0, _DATA_LIMIT - FRAME_HEADER_BYTES - self._tail)

    def reserve(self, limit: int) -> memoryview:
        """Space for one DATA payload of at most `limit` bytes; empty when there is none.

        Follow with `commit`, or with `abandon` when nothing came to fill it; neither is needed for an empty one.
        """
        if limit <= 0 or self._spill:
            return _EMPTY
        if self._buffer is None:
            self._open()
        start = self._tail + FRAME_HEADER_BYTES
        room = _DATA_LIMIT - start
        if limit > room:
            if room <= 0:
                return _EMPTY
            limit = room
        self._reserved = limit
        return self._view[start : start + limit]

    def commit(self, stream_id: int, n: int, flags: int = 0) -> None:
        """Make a DATA frame of the first `n` reserved bytes. Raises UsageError without a reservation of that size."""
        if n > self._reserved:
            raise _not_reserved(n, self._reserved)
        tail = self._tail
        _DATA_HEADER.pack_into(self._view, tail, n >> 8, n & 255, DATA, flags, stream_id)
        self._tail = tail + FRAME_HEADER_BYTES + n
        self._reserved = -1

    def reserve_many(self, limit: int, frame_bytes: int) -> list[memoryview]:
        """Spaces for DATA payloads of `frame_bytes`, the last one shorter, `limit` in all at most, for `recvmsg_into`.

        The list is shared: do not change it. Follow with `commit_many`, or with `abandon` unless it is empty.
        """
        if limit <= 0 or self._spill:
            return []
        buffer = self._buffer or self._open()
        tail = self._tail
        whole, rest = divmod(max(0, _DATA_LIMIT - tail), frame_bytes + FRAME_HEADER_BYTES)
        limit = min(limit, whole * frame_bytes + max(0, rest - FRAME_HEADER_BYTES))
        self._reserved = limit or -1
        if tail:
            return _layout(self._view, tail, limit, frame_bytes)
        spaces = buffer.layouts.get((limit, frame_bytes))
        if spaces is None:
            if len(buffer.layouts) >= MAX_LAYOUTS:
                buffer.layouts.clear()
            spaces = buffer.layouts[limit, frame_bytes] = _layout(self._view, 0, limit, frame_bytes)
        return spaces

    def commit_many(self, stream_id: int, n: int, frame_bytes: int) -> None:
        """Make DATA frames of the first `n` bytes, filled in order, of `reserve_many` with this `frame_bytes`."""
        if n > self._reserved:
            raise _not_reserved(n, self._reserved)
        pack_into, view, tail = _DATA_HEADER.pack_into, self._view, self._tail
        high, low = frame_bytes >> 8, frame_bytes & 255
        step = FRAME_HEADER_BYTES + frame_bytes
        while n >= frame_bytes:
            pack_into(view, tail, high, low, DATA, 0, stream_id)
            tail += step
            n -= frame_bytes
        if n:
            pack_into(view, tail, n >> 8, n & 255, DATA, 0, stream_id)
            tail += FRAME_HEADER_BYTES + n
        self._tail = tail
        self._reserved = -1

    def abandon(self) -> None:
        """Give up a reservation; an outbox with nothing else gives its buffer back."""
        self._reserved = -1
        if self._head == self._tail:
            self._close()

    def pending(self) -> memoryview:
        """What the next TLS write takes: the same bytes at each call until `advance()`; empty when there are none."""
        if self._flight == self._head:
            self._flight = self._tail
            if self._head == self._tail:
                self.abandon()
                return _EMPTY
        return self._view[self._head : self._flight]

    def advance(self, n: int) -> None:
        """`n` of the pending bytes are written. Raises UsageError for more than were pending."""
        head = self._head + n
        if head > self._flight:
            raise UsageError(f"{n} bytes written of {self._flight - self._head}", fix="advance by what was pending")
        self._head = self._flight = head
        if head == self._tail and self._reserved < 0:
            self._close()

    def discard(self) -> None:
        """Drop all that waits, and give the buffer back: the connection is gone."""
        self._spill = bytearray()
        self._reserved = -1
        self._close()

    def _open(self) -> Buffer:
        self._buffer = buffer = self._pool.acquire()
        self._view = buffer.view
        return buffer

    def _close(self) -> None:
        """All is written: refill from the spill, else give the buffer back."""
        self._head = self._flight = self._tail = 0
        if self._spill:
            self._tail = len(self._spill)
            self._view[: self._tail] = self._spill
            self._spill = bytearray()
        elif self._buffer is not None:
            self._pool.release(self._buffer)
            self._buffer = None
            self._view = _EMPTY

    def __len__(self) -> int:
        """Bytes that wait, in flight or not."""
        return self._tail - self._head + len(self._spill)

    def __bool__(self) -> bool:
        return self._tail != self._head or bool(self._spill)


def _layout(view: memoryview, start: int, limit: int, frame_bytes: int) -> list[memoryview]:
    spaces: list[memoryview] = []
    while limit > 0:
        start += FRAME_HEADER_BYTES
        size = min(limit, frame_bytes)
        spaces.append(view[start : start + size])
        start += size
        limit -= size
    return spaces


def _not_reserved(n: int, reserved: int) -> UsageError:
    return UsageError(f"{n} bytes of DATA committed, {max(reserved, 0)} reserved", fix="reserve before each commit")
