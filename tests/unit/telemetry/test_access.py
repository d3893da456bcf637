"""Access lines: exactly the known layout, and nothing that a peer can forge."""

import json
import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbone.telemetry.access import NOBODY, AccessLog, AccessRecord, format_json, format_text, party, quoted, stamp
from hbone.telemetry.names import ACCESS_FIELDS
from hbone.times import WallTime

WALL = WallTime(1_787_306_400.123456)  # 2026-08-21T10:00:00.123456Z
WEB = party("web-0", "web", "spiffe://cluster.local/ns/web/sa/web", "c1")
CART = party("cart-0", "shop", "spiffe://cluster.local/ns/shop/sa/cart", "c1")
RECORD = AccessRecord(
    src_addr="10.1.0.9:41234",
    src=WEB,
    dst_addr="10.1.0.7:15008",
    dst=CART,
    direction="outbound",
    bytes_sent=312,
    bytes_recv=1843,
    duration_ms=14,
    dst_hbone_addr="10.1.0.7:8080",
    dst_service="cart.shop.svc.cluster.local",
)


def lines(layout: str, record: AccessRecord = RECORD, level: int | None = None) -> list[str]:
    found: list[str] = []
    log = AccessLog(found.append, layout)  # type: ignore[arg-type]
    if level is not None:
        log.set_level(level)
    log.complete(WALL, record)
    return found


def test_a_line_has_the_layout_that_ztunnel_writes() -> None:
    assert lines("text") == [
        "2026-08-21T10:00:00.123456Z\tinfo\taccess\tconnection complete\t"
        'src.addr=10.1.0.9:41234 src.workload="web-0" src.namespace="web" '
        'src.identity="spiffe://cluster.local/ns/web/sa/web" src.cluster="c1" '
        "dst.addr=10.1.0.7:15008 dst.hbone_addr=10.1.0.7:8080 "
        'dst.service="cart.shop.svc.cluster.local" dst.workload="cart-0" dst.namespace="shop" '
        'dst.identity="spiffe://cluster.local/ns/shop/sa/cart" dst.cluster="c1" '
        'direction="outbound" bytes_sent=312 bytes_recv=1843 duration="14ms"\n'
    ]


def test_a_json_line_has_the_same_fields_in_the_same_order() -> None:
    (line,) = lines("json", RECORD._replace(error='no "answer"'))
    value = json.loads(line)
    assert list(value) == ["level", "time", "scope", "message", *(field.name for field in ACCESS_FIELDS)]
    assert (value["level"], value["time"], value["scope"]) == ("error", "2026-08-21T10:00:00.123456Z", "access")
    assert (value["bytes_sent"], value["duration"], value["error"]) == (312, "14ms", 'no "answer"')


@pytest.mark.parametrize("layout", ["text", "json"])
def test_what_is_not_known_is_left_out(layout: str) -> None:
    (line,) = lines(layout, RECORD._replace(src=NOBODY, dst=NOBODY, dst_hbone_addr=None, dst_service=None))
    assert "src.workload" not in line
    assert "dst.service" not in line
    assert "hbone_addr" not in line
    assert line.endswith("\n")


def test_a_failure_is_an_error_with_its_reason_at_the_end() -> None:
    (line,) = lines("text", RECORD._replace(error="policy shop/deny forbids it"))
    assert "\terror\taccess\tconnection complete\t" in line
    assert line.endswith(' error="policy shop/deny forbids it"\n')


@pytest.mark.parametrize("layout", ["text", "json"])
def test_a_peer_cannot_forge_a_line_or_a_field(layout: str) -> None:
    evil = 'x" bytes_sent=0\n2026\tinfo\taccess\u202e\x1b[2J\\'
    (line,) = lines(layout, RECORD._replace(error=evil, dst_hbone_addr=evil, dst_service=evil, src=party(evil, evil)))
    assert line.count("\n") == 1
    assert "\x1b" not in line
    if layout == "json":
        assert json.loads(line)["error"] == evil
    else:
        assert "\u202e" not in line
        assert line.count("\t") == 4


def test_a_long_value_is_cut() -> None:
    (line,) = lines("text", RECORD._replace(error="x" * 100_000))
    assert len(line) < 2000
    assert '…"' in line


def test_only_failures_are_written_at_error_level_and_nothing_when_off() -> None:
    assert lines("text", RECORD, level=40) == []
    assert len(lines("text", RECORD._replace(error="x"), level=40)) == 1
    assert lines("text", RECORD._replace(error="x"), level=100) == []
    assert lines("off", RECORD._replace(error="x"), level=20) == []


def test_opened_connections_are_told_at_debug_level() -> None:
    found: list[str] = []
    log = AccessLog(found.append, "text")
    log.opened(WALL, RECORD)
    assert found == []
    log.set_level(10)
    log.opened(WALL, RECORD)
    assert "\tdebug\taccess\tconnection opened\tsrc.addr=" in found[0]


def test_who_is_turned_away_early_has_a_short_line() -> None:
    found: list[str] = []
    AccessLog(found.append, "text").failed(WALL, "10.1.0.9:1", "10.1.0.7:15008", "inbound", "not TLS: b'\\x16'")
    AccessLog(found.append, "json").failed(WALL, "10.1.0.9:1", "10.1.0.7:15008", "inbound", "not TLS")
    quiet = AccessLog(found.append, "json")
    quiet.set_level(40)
    quiet.failed(WALL, "10.1.0.9:1", "10.1.0.7:15008", "inbound", "not TLS")
    assert found[0].endswith(
        "\twarn\taccess\tconnection failed\tsrc.addr=10.1.0.9:1 dst.addr=10.1.0.7:15008 "
        'direction="inbound" error="not TLS: b\'\\\\x16\'"\n'
    )
    assert json.loads(found[1])["message"] == "connection failed"
    assert len(found) == 2


@given(st.floats(0, 4e9))
def test_a_time_is_written_in_utc_with_microseconds(wall: float) -> None:
    text = stamp(WallTime(wall))
    assert len(text) == len("2026-08-21T10:00:00.123456Z")
    assert text.endswith("Z")


@given(st.text())
def test_quoted_text_is_one_printable_line(text: str) -> None:
    line = quoted(text)
    assert line.isprintable()
    assert line[0] == line[-1] == '"'


@given(st.text(st.characters()))  # lone surrogates too: they stand for bytes that were no UTF-8
def test_who_is_turned_away_early_has_a_line_whatever_it_said(error: str) -> None:
    found: list[str] = []
    AccessLog(found.append, "text").failed(WALL, "a:1", "b:2", "inbound", error)
    AccessLog(found.append, "json").failed(WALL, "a:1", "b:2", "inbound", error)
    assert [line.count("\n") for line in found] == [1, 1]
    assert json.loads(found[1])["direction"] == "inbound"


@given(st.text(), st.text(), st.text())
def test_a_json_line_is_json_whatever_it_holds(error: str, service: str, workload: str) -> None:
    record = RECORD._replace(error=error, dst_service=service, src=party(workload))
    value = json.loads(format_json(WALL, "info", "connection complete", record))
    assert value["direction"] == "outbound"
    assert format_text(WALL, "info", "connection complete", record).count("\n") == 1


def test_a_line_costs_microseconds() -> None:
    log = AccessLog(lambda line: None, "text")
    best = min(timeit.repeat(lambda: log.complete(WALL, RECORD), number=1000, repeat=7)) / 1000
    assert best < 20e-6  # measured: 1.3 µs; the margin is for a busy machine and for coverage
