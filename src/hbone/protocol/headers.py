"""Header blocks (RFC 7541) by the `hpack` library, with two short cuts that a CONNECT-only peer makes possible.

*Writing.* Every field is sent as a literal without indexing (§6.2.2), or as an index into the static table: our
encoder has no dynamic table, so the same fields always make the same bytes and can be kept.

*Reading.* A block that consists of nothing but static indexes and plain literals, which is what ztunnel-like peers send
when they do not index, depends on no state: it is taken apart here. The rest goes to `hpack`, and what that makes of a
block is remembered by its bytes for as long as the decoder's dynamic table is empty.
"""

from collections.abc import Iterable
from typing import Final

from hpack import Decoder, OversizedHeaderListError
from hpack.exceptions import HPACKError
from hpack.table import HeaderTable

from hbone.protocol.codes import ConnectionViolation, ErrorCode

Field = tuple[bytes, bytes]

_MOST_EXTRA_BYTES: Final = 32 + 28  # of a field, beyond its bytes in the block: overhead, and the longest static field
FIELD_OVERHEAD_BYTES: Final = 32  # RFC 9113 §6.5.2: what each field counts beyond its octets
MAX_CACHED_BLOCKS: Final = 128
MAX_CACHED_BYTES: Final = 1024  # of a block that was read, since the peer chooses it; that of a CONNECT has some 300
MAX_CACHED_FIELDS: Final = 16  # in it: an index of one byte may stand for much


_STATIC: Final[tuple[Field, ...]] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_INDEX_OF_FIELD: Final = {field: number for number, field in reversed(list(enumerate(_STATIC, 1))) if field[1]}
_INDEX_OF_NAME: Final = {field[0]: number for number, field in reversed(list(enumerate(_STATIC, 1)))}


class HeaderEncoder:
    """Fields → block, for one connection."""

    __slots__ = ("_blocks", "_prefix", "_size_known")

    def __init__(self) -> None:
        self._blocks: dict[tuple[Field, ...], bytes] = {}
        self._prefix = b""
        self._size_known = True

    def limit_table(self, peer_bytes: int) -> None:
        """The peer allows a dynamic table of `peer_bytes`: less than what it assumes we have must be answered, once.

        RFC 7541 §4.2; "our table has no bytes" fits every later limit too.
        """
        if self._size_known and peer_bytes < 4096:
            self._size_known = False
            self._prefix = b"\x20"

    def encode(self, fields: Iterable[Field] | bytes) -> bytes:
        """The block for `fields`, whose names are in lower case. A tuple says that the same fields come again, bytes
        are a block that `encode_field` made before."""
        if isinstance(fields, bytes):
            block = fields
        elif isinstance(fields, tuple):
            block = self._kept(fields)
        else:
            block = b"".join(map(encode_field, fields))
        if self._prefix:
            block, self._prefix = self._prefix + block, b""
        return block

    def _kept(self, fields: tuple[Field, ...]) -> bytes:
        block = self._blocks.get(fields)
        if block is None:
            if len(self._blocks) >= MAX_CACHED_BLOCKS:
                self._blocks.clear()
            block = self._blocks[fields] = b"".join(map(encode_field, fields))
        return block


def encode_field(field: Field) -> bytes:
    """One field as a static index or a literal without indexing, never Huffman-coded (0.3 µs instead of 20)."""
    number = _INDEX_OF_FIELD.get(field)
    if number is not None:
        return bytes((0x80 | number,))
    name, value = field
    return encode_name(name) + encode_value(value)


def encode_name(name: bytes) -> bytes:
    """The beginning of a literal without indexing, up to its value."""
    number = _INDEX_OF_NAME.get(name)
    return b"\x00" + _length(len(name)) + name if number is None else _integer(number, 4)


def encode_value(value: bytes) -> bytes:
    """The end of a literal."""
    return _length(len(value)) + value


def _length(n: int) -> bytes:
    return bytes((n,)) if n < 127 else _integer(n, 7)


def _integer(n: int, bits: int) -> bytes:
    """RFC 7541 §5.1, the bits before the prefix zero."""
    most = (1 << bits) - 1
    if n < most:
        return bytes((n,))
    out = bytearray((most,))
    n -= most
    while n >= 128:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


class HeaderDecoder:
    """Blocks → fields, for one connection. `max_list_bytes`: where decoding stops, counted as RFC 9113 §6.5.2 does."""

    __slots__ = ("_blocks", "_decoder", "_max_list")

    def __init__(self, max_list_bytes: int) -> None:
        self._max_list = max_list_bytes
        self._decoder: Decoder | None = None  # 3 KiB that a peer without a dynamic table does not cost
        self._blocks: dict[bytes, tuple[Field, ...]] = {}

    def decode(self, block: bytes) -> tuple[Field, ...]:
        """The fields of a block; raises ConnectionViolation, after which nothing more can be decoded."""
        fields = self._blocks.get(block)
        if fields is not None:
            return fields
        plain = _plain_fields(block)
        if plain is None:
            return self._decode(block)
        if len(block) + len(plain) * _MOST_EXTRA_BYTES > self._max_list and list_bytes(plain) > self._max_list:
            raise self._too_large()
        return tuple(plain)

    def _decode(self, block: bytes) -> tuple[Field, ...]:
        if self._decoder is None:
            self._decoder = Decoder(max_header_list_size=self._max_list)
        began_empty = not self._decoder.header_table.dynamic_entries
        try:
            fields = tuple((bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True))
        except OversizedHeaderListError as oversized:
            raise self._too_large() from oversized
        except HPACKError as error:
            raise ConnectionViolation(
                ErrorCode.COMPRESSION_ERROR, f"header block cannot be decoded ({error})"
            ) from error
        if self._decoder.header_table.dynamic_entries or block[0] & 0xE0 == 0x20:
            self._blocks.clear()  # what a block means now depends on more than its bytes
        elif began_empty and self._may_keep(block, fields):
            self._blocks[block] = fields
        return fields

    def _may_keep(self, block: bytes, fields: tuple[Field, ...]) -> bool:
        small = len(block) <= MAX_CACHED_BYTES and len(fields) <= MAX_CACHED_FIELDS
        return small and len(self._blocks) < MAX_CACHED_BLOCKS

    def _too_large(self) -> ConnectionViolation:
        return ConnectionViolation(
            ErrorCode.ENHANCE_YOUR_CALM,
            f"header list of more than {self._max_list} bytes",
            limit="max_header_list_factor",
        )


def list_bytes(fields: Iterable[Field]) -> int:
    """The size of a header list as MAX_HEADER_LIST_SIZE counts it."""
    return sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in fields)


def _plain_fields(block: bytes) -> list[Field] | None:
    """The fields of a block that depends on no state; None for any other, and for a broken one.

    Static indexes (§6.1), and literals that change no table (§6.2.2, §6.2.3) whose strings are not Huffman-coded and
    shorter than 127 bytes in the name, 16 511 in the value.
    """
    fields: list[Field] = []
    at, end = 0, len(block)
    try:
        while at < end:
            first = block[at]
            at += 1
            if first & 0x80:
                fields.append(_STATIC[(first & 0x7F) - 1 if first != 0x80 else 99])
                continue
            if first & 0x60 or first & 0x0F == 0x0F:  # adds to the table, resizes it, or has a large index
                return None
            if first & 0x0F:
                name = _STATIC[(first & 0x0F) - 1][0]
            else:
                size = block[at]
                if size >= 127:
                    return None
                name = block[at + 1 : at + 1 + size]
                at += 1 + size
            size = block[at]
            at += 1
            if size >= 127:
                more = block[at]
                if size > 127 or (more & 0x80 and block[at + 1] & 0x80):
                    return None
                size = 127 + (more & 0x7F)
                at += 1
                if more & 0x80:
                    size += block[at] << 7
                    at += 1
            value = block[at : at + size]
            at += size
            fields.append((name, value))
    except IndexError:
        return None
    return fields if at == end else None
