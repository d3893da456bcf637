"""Laws of the parts: the outbox, header blocks, the headers of a CONNECT, the first bytes of a connection."""

import random

import hypothesis.strategies as st
from hpack import Decoder, Encoder
from hpack.struct import HeaderTuple, NeverIndexedHeaderTuple
from hypothesis import given, settings

from hbone.addr import Authority, HostPort, SocketAddress, parse_ip
from hbone.errors import InvalidTarget
from hbone.protocol.baggage import (
    WORKLOAD_TYPES,
    Baggage,
    Forwarded,
    TraceParent,
    fresh_traceparent,
    parse_baggage,
    parse_forwarded,
    parse_traceparent,
)
from hbone.protocol.clienthello import ClientHello, NeedMore, NotTls, parse_client_hello
from hbone.protocol.codes import ConnectionViolation
from hbone.protocol.connect import NotConnect, RequestHead, parse_request, request_headers, response_status
from hbone.protocol.connectrequest import ConnectRequest
from hbone.protocol.headers import HeaderDecoder, HeaderEncoder
from hbone.protocol.messages import fault_in_request
from hbone.protocol.outbox import BufferPool, Outbox, OutboxOverflow
from tests.support import h2frames

NAME = st.one_of(
    st.sampled_from([b":method", b":authority", b":status", b"baggage", b"via", b"www-authenticate"]),
    st.binary(min_size=1, max_size=140),
)
FIELD = st.tuples(NAME, st.one_of(st.sampled_from([b"CONNECT", b"200", b""]), st.binary(max_size=300)))
FIELDS = st.lists(FIELD, max_size=8).map(tuple)


@given(FIELDS)
def test_what_our_encoder_writes_every_decoder_reads(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    block = HeaderEncoder().encode(fields)
    assert tuple((bytes(name), bytes(value)) for name, value in Decoder().decode(block, raw=True)) == fields
    assert HeaderDecoder(2**20).decode(block) == fields


@given(
    st.lists(
        st.tuples(FIELDS, st.booleans(), st.one_of(st.none(), st.sampled_from([0, 64, 4096])), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_our_decoder_follows_an_encoder_with_a_dynamic_table(
    blocks: list[tuple[tuple[tuple[bytes, bytes], ...], bool, int | None, bool]],
) -> None:
    """Over many blocks of one connection, some not indexed, some not Huffman-coded, the table resized in between."""
    encoder, decoder = Encoder(), HeaderDecoder(2**20)
    for fields, huffman, table, indexed in blocks:
        if table is not None:
            encoder.header_table_size = table
        kind = HeaderTuple if indexed else NeverIndexedHeaderTuple
        block = encoder.encode([kind(name, value) for name, value in fields], huffman=huffman)
        assert decoder.decode(block) == fields


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_no_block_raises_anything_but_a_violation(blocks: list[bytes]) -> None:
    decoder = HeaderDecoder(65_536)
    try:
        for block in blocks:
            decoder.decode(block)
    except ConnectionViolation:
        pass


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 100_000)),
        st.tuples(st.just("reserve"), st.integers(-5, 400_000)),
        st.tuples(st.just("many"), st.integers(-5, 400_000)),
        st.tuples(st.just("abandon"), st.just(0)),
        st.tuples(st.just("look"), st.just(0)),
        st.tuples(st.just("write"), st.integers(1, 400_000)),
    ),
    max_size=40,
)


@given(steps=STEPS, frame_bytes=st.sampled_from([1000, 16_375, 262_144]), fill=st.floats(0, 1))
@settings(deadline=None)
def test_an_outbox_neither_loses_nor_reorders_a_byte(
    steps: list[tuple[str, int]], frame_bytes: int, fill: float
) -> None:
    pool = BufferPool()
    outbox, put, taken, turn = Outbox(pool), bytearray(), bytearray(), 0
    looked: bytes | None = None
    for step, n in steps:
        turn = (turn + 1) % 256
        if step == "append":
            frame = bytes((turn,)) * n
            try:
                outbox.append(frame)
                put += frame
            except OutboxOverflow:
                pass
        elif step == "reserve":
            space = outbox.reserve(n)
            if space:
                used = int(len(space) * fill)
                space[:used] = bytes((turn,)) * used
                outbox.commit(1, used)
                put += h2frames.data(1, bytes((turn,)) * used)
        elif step == "many":
            spaces = outbox.reserve_many(n, frame_bytes)
            total = used = int(sum(map(len, spaces)) * fill)
            for space in spaces:
                part = min(used, len(space))
                space[:part] = bytes((turn,)) * part
                used -= part
            if spaces:
                outbox.commit_many(1, total, frame_bytes)
            for at in range(0, total, frame_bytes):
                put += h2frames.data(1, bytes((turn,)) * min(frame_bytes, total - at))
        elif step == "abandon":
            outbox.reserve(10)
            outbox.abandon()
        else:
            view = outbox.pending()
            assert looked is None or bytes(view) == looked
            looked = bytes(view) or None
            if step == "write":
                written = min(n, len(view))
                taken += view[:written]
                outbox.advance(written)
                looked = None
        assert len(outbox) == len(put) - len(taken)
    taken += h2frames.drain(outbox)
    assert taken == put
    assert len(pool) <= 1
    assert not outbox


TEXT = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=",;= "), max_size=20)


@given(
    st.builds(
        Baggage,
        cluster=TEXT,
        namespace=TEXT,
        workload_type=st.sampled_from(WORKLOAD_TYPES),
        workload=TEXT.filter(bool),
        service=TEXT,
        version=TEXT,
        region=TEXT,
        zone=TEXT,
    )
)
def test_baggage_reads_what_it_writes(baggage: Baggage) -> None:
    assert parse_baggage([baggage.header()]) == baggage


@given(st.builds(Baggage, namespace=st.text(), workload_type=st.text(max_size=0), service=st.text(), region=st.text()))
def test_no_label_breaks_out_of_its_header(baggage: Baggage) -> None:
    header = baggage.header()
    assert header.count(b",") <= 2
    assert fault_in_request((*h2frames.CONNECT, (b"baggage", header))) is None


@given(st.binary(max_size=200))
def test_no_header_value_makes_a_reader_raise(value: bytes) -> None:
    parse_baggage([value, value])
    parse_forwarded(value)
    parse_traceparent(value)
    response_status(((b":status", value), (b"baggage", value)))


ADDRESSES = st.builds(SocketAddress, st.ip_addresses().map(str).map(parse_ip), st.integers(1, 65_535))
TARGETS = st.one_of(
    ADDRESSES,
    st.builds(HostPort, st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9}){0,3}", fullmatch=True), st.integers(1, 65_535)),
)


@given(
    st.builds(
        ConnectRequest,
        authority=TARGETS,
        forwarded=st.one_of(st.none(), st.builds(Forwarded, ADDRESSES)),
        traceparent=st.one_of(
            st.none(),
            st.builds(TraceParent, st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255)),
        ),
        forwarded_network=st.one_of(st.none(), st.sampled_from(["", "network-1"])),
    )
)
def test_a_connect_reads_what_it_writes(request: ConnectRequest) -> None:
    assert parse_request(request_headers(request)).whole() == request


@given(
    TARGETS,
    st.builds(Baggage, namespace=st.sampled_from(["", "shop"]), workload=st.text("abc", max_size=200)),
    ADDRESSES,
    st.one_of(st.none(), st.just("cart.shop.svc.cluster.local"), st.text("ab", min_size=90, max_size=200)),
    st.randoms(use_true_random=False),
)
def test_a_request_from_a_head_has_the_bytes_of_one_written_whole(
    authority: Authority, baggage: Baggage, client: SocketAddress, host: str | None, rng: random.Random
) -> None:
    traceparent = fresh_traceparent(rng)
    request = ConnectRequest(
        authority=authority,
        baggage=baggage,
        forwarded=Forwarded(client, host),
        traceparent=parse_traceparent(traceparent),
    )
    block = RequestHead(authority, baggage, host).block(str(client), traceparent)
    assert block == HeaderEncoder().encode(request_headers(request))


@given(FIELDS)
def test_no_request_raises_anything_but_its_own_errors(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    try:
        parse_request(fields)
    except (InvalidTarget, NotConnect) as error:
        assert error.status == 400


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(b"\x16\x03\x01\x00\x40\x01".__add__)))
def test_first_bytes_are_a_hello_or_its_beginning_or_not_tls(text: bytes) -> None:
    found = parse_client_hello(text)
    assert isinstance(found, ClientHello | NeedMore | NotTls)
    if isinstance(found, NotTls) and len(text) > 1:  # what is no hello does not become one by waiting
        assert not isinstance(parse_client_hello(text + b"\0"), ClientHello)
