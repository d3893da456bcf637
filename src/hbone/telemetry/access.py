"""The access log: one line for each finished connection, in the plain layout or as JSON.

A busy node writes tens of thousands of these a second, so a line is one format string. What is known about a
workload does not change from connection to connection: `Party` keeps its part of the line ready. Text that a peer
chose is quoted and escaped, so that no connection can forge a line or a field.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from time import gmtime, strftime
from typing import Final, Literal, NamedTuple

import orjson

from hbone.config.levels import LEVELS
from hbone.telemetry.names import ACCESS_COMPLETE, ACCESS_FAILED, ACCESS_OPENED, ACCESS_SCOPE
from hbone.times import WallTime

MAX_VALUE_CHARS: Final = 1024
"""Longer values are cut: an error may quote what a peer sent."""
_BARE = re.compile(r"[0-9A-Za-z.:_\[\]-]+").fullmatch
_DIRECTION_TEXT: Final = {"inbound": ' direction="inbound"', "outbound": ' direction="outbound"'}

Direction = Literal["inbound", "outbound"]


class Party:
    """What an access line says about one side's workload. Keep and share it: `party` does."""

    __slots__ = ("cluster", "dst_json", "dst_text", "identity", "namespace", "src_json", "src_text", "workload")

    def __init__(self, workload: str | None, namespace: str | None, identity: str | None, cluster: str | None) -> None:
        self.workload = workload
        self.namespace = namespace
        self.identity = identity
        self.cluster = cluster
        given = {"workload": workload, "namespace": namespace, "identity": identity, "cluster": cluster}
        self.src_text, self.src_json = _fragments("src", given)
        self.dst_text, self.dst_json = _fragments("dst", given)


@lru_cache(maxsize=16384)
def party(
    workload: str | None = None, namespace: str | None = None, identity: str | None = None, cluster: str | None = None
) -> Party:
    """The one Party of these values; None (or empty) for what is not known. `identity` only if mTLS proved it."""
    return Party(workload, namespace, identity, cluster)


class AccessRecord(NamedTuple):
    """One connection that ended. `src_addr`, `dst_addr`: `ip:port`; `dst_hbone_addr`: the authority; `dst_service`:
    host name. `bytes_sent` and `bytes_recv` are seen from the workload on this node."""

    src_addr: str
    src: Party
    dst_addr: str
    dst: Party
    direction: Direction
    bytes_sent: int
    bytes_recv: int
    duration_ms: int
    dst_hbone_addr: str | None = None
    dst_service: str | None = None
    error: str | None = None


Format = Callable[[WallTime, str, str, AccessRecord], str]


class AccessLog:
    """Formats records and hands the lines to `write` (`LineWriter.write`)."""

    def __init__(self, write: Callable[[str], None], layout: Literal["text", "json", "off"]) -> None:
        self.level: int = LEVELS["off"] if layout == "off" else LEVELS["info"]
        """Lines below this level are not written; `hbone.telemetry.log` sets it."""
        self._write = write
        self._format: Format = format_json if layout == "json" else format_text
        self._json = layout == "json"
        self._enabled = layout != "off"

    def set_level(self, level: int) -> None:
        """A number of the standard library's logging; has no effect when the access log is off."""
        if self._enabled:
            self.level = level

    def complete(self, wall: WallTime, record: AccessRecord) -> None:
        """The one line at a connection's end."""
        error = record.error is not None
        if self.level <= (40 if error else 20):
            self._write(self._format(wall, "error" if error else "info", ACCESS_COMPLETE, record))

    def opened(self, wall: WallTime, record: AccessRecord) -> None:
        """At debug level, when a connection is admitted."""
        if self.level <= 10:
            self._write(self._format(wall, "debug", ACCESS_OPENED, record))

    def failed(self, wall: WallTime, src_addr: str, dst_addr: str, direction: Direction, error: str) -> None:
        """A connection that was turned away before anything was known about it."""
        if self.level > 30:
            return
        if self._json:
            fields = {"src.addr": src_addr, "dst.addr": dst_addr, "direction": direction, "error": error}
            told = ",".join(f'"{name}":{_json_text(text)}' for name, text in fields.items())
            self._write(f"{_json_head(wall, 'warn', ACCESS_FAILED)}{told}}}\n")
        else:
            self._write(
                f"{stamp(wall)}\twarn\t{ACCESS_SCOPE}\t{ACCESS_FAILED}\tsrc.addr={bare(src_addr)} "
                f"dst.addr={bare(dst_addr)}{_DIRECTION_TEXT[direction]} error={quoted(error)}\n"
            )


def format_text(wall: WallTime, level: str, message: str, record: AccessRecord) -> str:
    """The plain layout: four parts with tabs between, then `key=value` with spaces between."""
    src_addr, src, dst_addr, dst, direction, sent, received, duration_ms, hbone_addr, service, error = record
    target = _target_text(hbone_addr, service)
    tail = "" if error is None else f" error={quoted(error)}"
    return (
        f"{stamp(wall)}\t{level}\taccess\t{message}\tsrc.addr={src_addr}{src.src_text} dst.addr={dst_addr}{target}"
        f'{dst.dst_text}{_DIRECTION_TEXT[direction]} bytes_sent={sent} bytes_recv={received} duration="{duration_ms}ms"'
        f"{tail}\n"
    )


def format_json(wall: WallTime, level: str, message: str, record: AccessRecord) -> str:
    """One JSON object a line: level, time, scope, message, then the fields, numbers as numbers."""
    src_addr, src, dst_addr, dst, direction, sent, received, duration_ms, hbone_addr, service, error = record
    target = _target_json(hbone_addr, service)
    tail = "" if error is None else f',"error":{_json_text(error)}'
    return (
        f'{_json_head(wall, level, message)}"src.addr":"{src_addr}"{src.src_json},"dst.addr":"{dst_addr}"{target}'
        f'{dst.dst_json},"direction":"{direction}","bytes_sent":{sent},"bytes_recv":{received},'
        f'"duration":"{duration_ms}ms"{tail}}}\n'
    )


def stamp(wall: WallTime) -> str:
    """RFC 3339 in UTC with microseconds: 2026-08-21T10:00:00.123456Z."""
    second, micros = divmod(int(wall * 1e6), 1_000_000)
    return f"{_second(second)}.{micros:06d}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))


def bare(text: str) -> str:
    """`text` as it is if it can pass for an address or host and port, else quoted."""
    return text if _BARE(text) else quoted(text)


def quoted(text: str) -> str:
    """In quotes on one line, printable: quotes, backslashes and everything that is not printable escaped."""
    if len(text) > MAX_VALUE_CHARS:
        text = _cut(text)
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _escaped(char: str) -> str:
    return _SHORT.get(char) or (char if char.isprintable() else f"\\u{{{ord(char):x}}}")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"


def _json_text(text: str) -> str:
    # A lone surrogate cannot be JSON; it comes from bytes that were no UTF-8.
    return orjson.dumps(_cut(text).encode("utf-8", "backslashreplace").decode()).decode()


@lru_cache(maxsize=16384)
def _target_text(hbone_addr: str | None, service: str | None) -> str:
    """What a connection was for; the same few targets are asked for again and again."""
    hbone = "" if hbone_addr is None else f" dst.hbone_addr={bare(hbone_addr)}"
    return hbone if service is None else f"{hbone} dst.service={quoted(service)}"


@lru_cache(maxsize=16384)
def _target_json(hbone_addr: str | None, service: str | None) -> str:
    hbone = "" if hbone_addr is None else f',"dst.hbone_addr":{_json_text(hbone_addr)}'
    return hbone if service is None else f'{hbone},"dst.service":{_json_text(service)}'


def _json_head(wall: WallTime, level: str, message: str) -> str:
    return f'{{"level":"{level}","time":"{stamp(wall)}","scope":"{ACCESS_SCOPE}","message":"{message}",'


def _fragments(side: str, given: dict[str, str | None]) -> tuple[str, str]:
    """Both layouts of what is known, each piece with its separator in front."""
    known = [(f"{side}.{name}", value) for name, value in given.items() if value]
    text = "".join(f" {name}={quoted(value)}" for name, value in known)
    json = "".join(f',"{name}":{_json_text(value)}' for name, value in known)
    return text, json


NOBODY: Final = party()
"""The Party of which nothing is known."""
