"""Header blocks: RFC 7541, and §4.3 and §6.5.2 of RFC 9113."""

import contextlib
import tracemalloc

import pytest
from hpack import Decoder, Encoder

from hbone.protocol.codes import ConnectionViolation, ErrorCode
from hbone.protocol.headers import HeaderDecoder, HeaderEncoder, encode_field, list_bytes
from tests.support.h2frames import CONNECT, OK, Fields, block

LONG: Fields = (*CONNECT, (b"baggage", b"k8s.namespace.name=shop" * 10), (b"x" * 200, b"v" * 20_000), (b"empty", b""))


@pytest.fixture
def decoder() -> HeaderDecoder:
    return HeaderDecoder(65_536)


@pytest.mark.parametrize("fields", [CONNECT, OK, LONG, ()], ids=["connect", "ok", "long", "none"])
def test_what_we_write_hpack_reads_without_touching_its_table(fields: Fields) -> None:
    theirs = Decoder()
    read = theirs.decode(HeaderEncoder().encode(list(fields)), raw=True)
    assert [tuple(field) for field in read] == list(fields)
    assert not theirs.header_table.dynamic_entries


@pytest.mark.parametrize(
    ("field", "written"),
    [
        ((b":status", b"200"), b"\x88"),
        ((b":method", b"CONNECT"), b"\x02\x07CONNECT"),
        ((b":authority", b"a:1"), b"\x01\x03a:1"),
        ((b"via", b""), b"\x0f\x2d\x00"),
        ((b"x", b"y"), b"\x00\x01x\x01y"),
        ((b"x", b"y" * 127), b"\x00\x01x\x7f\x00" + b"y" * 127),
        ((b"x", b"y" * 300), b"\x00\x01x\x7f\xad\x01" + b"y" * 300),
    ],
)
def test_a_field_is_a_static_index_or_a_literal_without_indexing(field: tuple[bytes, bytes], written: bytes) -> None:
    assert encode_field(field) == written  # §6.1, §6.2.2


def test_a_tuple_of_fields_is_encoded_once() -> None:
    encoder = HeaderEncoder()
    assert encoder.encode(tuple(CONNECT)) is encoder.encode(tuple(CONNECT))
    for n in range(300):  # and what is remembered is bounded
        encoder.encode(((b"x", b"%d" % n),))
    assert encoder.encode(tuple(CONNECT)) == encoder.encode(list(CONNECT))


def test_a_smaller_table_at_the_peer_is_answered_once_at_the_next_block() -> None:
    encoder = HeaderEncoder()
    encoder.limit_table(4096)
    plain = encoder.encode(OK)
    encoder.limit_table(100)
    assert encoder.encode(OK) == b"\x20" + plain  # RFC 7541 §4.2
    encoder.limit_table(0)
    encoder.limit_table(4096)
    assert encoder.encode(OK) == plain


@pytest.mark.parametrize("fields", [CONNECT, OK, LONG, ()], ids=["connect", "ok", "long", "none"])
def test_plain_huffman_and_indexed_blocks_read_alike(decoder: HeaderDecoder, fields: Fields) -> None:
    expected = tuple(fields)
    indexing = Encoder()
    assert decoder.decode(HeaderEncoder().encode(fields)) == expected
    assert decoder.decode(block(fields)) == expected
    assert decoder.decode(indexing.encode(fields)) == expected
    assert decoder.decode(indexing.encode(fields)) == expected  # now by indexes into the dynamic table


def test_a_block_without_state_is_decoded_once(decoder: HeaderDecoder) -> None:
    huffman = b"\x00" + block(((b"x-custom", b"value"),))[1:]  # a literal without indexing, Huffman-coded
    first = decoder.decode(huffman)
    assert first == ((b"x-custom", b"value"),)
    assert decoder.decode(huffman) is first
    for n in range(300):
        name = b"x-%d" % n
        assert decoder.decode(b"\x00" + block(((name, b"value"),))[1:]) == ((name, b"value"),)


@pytest.mark.parametrize("text", [b"v" * 100_000, b""], ids=["long", "many fields"])
def test_a_peer_cannot_make_us_remember_much(text: bytes) -> None:
    """A block that needs `hpack` and changes no table is remembered: of those a peer may send any number."""
    decoder = HeaderDecoder(262_144)
    tracemalloc.start()
    try:
        for n in range(64):
            huffman = b"\x00\x01a\x82\x1c\x7f" + encode_field((b"x%d" % n, text)) + (b"" if text else b"\x82" * 5000)
            with contextlib.suppress(ConnectionViolation):
                decoder.decode(huffman)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 300_000


def test_a_remembered_block_is_forgotten_when_the_dynamic_table_fills(decoder: HeaderDecoder) -> None:
    theirs = Encoder()
    decoder.decode(b"\x00" + block(((b"x-custom", b"value"),))[1:])
    first = theirs.encode(((b"a", b"1"),))
    second = theirs.encode(((b"a", b"1"),))
    assert decoder.decode(first) == ((b"a", b"1"),)
    theirs.encode(((b"b", b"2"),))
    decoder.decode(Encoder().encode(((b"b", b"2"),)))
    assert len(second) == 1
    assert decoder.decode(second) == ((b"b", b"2"),)  # the same index means the newest entry


def test_a_block_that_empties_the_table_is_not_remembered(decoder: HeaderDecoder) -> None:
    decoder.decode(b"\x40\x01a\x01b")  # adds a: b to the table
    emptying = b"\xbe" + b"\x40\x01c\x7f\x81\x1f" + b"v" * 4096  # refers to it; then an entry that evicts all (§4.4)
    assert decoder.decode(emptying)[0] == (b"a", b"b")
    with pytest.raises(ConnectionViolation, match="cannot be decoded"):
        decoder.decode(emptying)


def test_a_change_of_the_table_size_is_never_skipped(decoder: HeaderDecoder) -> None:
    oversized = b"\x20\x40\x01a\x01b"  # table of no bytes: the entry is not kept
    assert decoder.decode(oversized) == decoder.decode(oversized) == ((b"a", b"b"),)
    assert decoder.decode(b"\x3f\xe1\x1f\x40\x01a\x01b") == ((b"a", b"b"),)  # 4096 again: it is kept
    assert decoder.decode(b"\xbe") == ((b"a", b"b"),)


@pytest.mark.parametrize(
    "broken",
    [
        b"\x80",  # index 0
        b"\xbe",  # dynamic index into an empty table
        b"\xff\xff\xff\xff\xff\xff\xff",  # endless integer
        b"\x00",  # no name
        b"\x00\x05ab",  # name shorter than its length
        b"\x00\x01a",  # no value
        b"\x00\x01a\x05b",  # value shorter than its length
        b"\x00\x01a\x7f",  # length that does not end
        b"\x00\x01a\x7f\x80",
        b"\x00\x7f\x00ab",
        b"\x0f",  # name index that does not end
        b"\x00\x81\xff\x00",  # Huffman padding of eight bits
        b"\x88\x20",  # table size inside a block
        b"\x3f\xff\xff\x7f",  # table larger than we allow
    ],
)
def test_a_broken_block_is_a_compression_error(decoder: HeaderDecoder, broken: bytes) -> None:
    with pytest.raises(ConnectionViolation) as caught:
        decoder.decode(broken)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@pytest.mark.parametrize("length", [126, 127, 128, 254, 255, 16_510, 16_511, 70_000])
@pytest.mark.parametrize("never", [0x00, 0x10])
def test_literals_of_every_length_are_read(length: int, never: int) -> None:
    decoder = HeaderDecoder(200_000)
    written = bytearray(encode_field((b"x", b"v" * length)))
    written[0] |= never  # §6.2.3: never to be indexed
    assert decoder.decode(bytes(written)) == ((b"x", b"v" * length),)


TALL: Fields = ((b"x", b"v" * 10_000),)


@pytest.mark.parametrize("text", [HeaderEncoder().encode(TALL), block(TALL)], ids=["plain", "huffman"])
def test_a_list_beyond_the_hard_limit_ends_the_connection(text: bytes) -> None:
    with pytest.raises(ConnectionViolation, match="more than 5000 bytes") as caught:
        HeaderDecoder(5000).decode(text)
    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_small_block_that_unfolds_into_a_large_list_is_stopped() -> None:
    decoder = HeaderDecoder(50_000)
    decoder.decode(b"\x40\x01a\x7f\x81\x1e" + b"v" * 3968)  # one entry of 4 KiB
    with pytest.raises(ConnectionViolation, match="more than 50000 bytes"):
        decoder.decode(b"\xbe" * 1000)


def test_a_list_counts_32_bytes_for_each_field() -> None:
    assert list_bytes(((b"a", b"bc"), (b"", b""))) == 67  # §6.5.2
