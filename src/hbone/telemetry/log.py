"""Structured log lines on the standard library's logging: a stable phrase and fields.

    log = logging.getLogger(__name__)
    log.warning("upstream refused", extra={"upstream": addr, "attempt": n})

In the plain layout (ztunnel's: time, level, scope, message with tabs between, then `key=value`) or as one JSON
object a line. A logged exception is one line too, `error="what: why"`; its traceback follows, escaped into the
same line, only where debug lines are on. What a peer can cause at will goes through `Occasional`.
"""

import json
import logging
import traceback
from datetime import date
from typing import Any, Final

import orjson

from hbone.config.levels import LEVELS, ROOT, parse_levels
from hbone.config.sections import Logging
from hbone.telemetry.access import AccessLog, bare, quoted, stamp
from hbone.telemetry.lines import LineWriter, Schedule
from hbone.times import Clock, Instant, WallTime
from hbone.values import dataclass

logging.addLevelName(LEVELS["trace"], "TRACE")
_LEVEL_TEXT: Final = {5: "trace", 10: "debug", 20: "info", 30: "warn", 40: "error", 50: "error"}
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""Attributes that every record has; all others came by `extra`."""
LOST_LINES: Final = "log lines dropped"
CLOSE_WAIT_S: Final = 1.0


class Logs:
    """Where this process's lines go. `close` waits for what is unwritten, a second at most."""

    def __init__(self, settings: Logging, *, log_fd: int = 2, access_fd: int = 1) -> None:
        formatter = JsonLines() if settings.log_format == "json" else PlainLines()
        self.lines = LineWriter(log_fd, lambda count: formatter.format(_lost(count)))
        self.access_lines = LineWriter(access_fd, lambda count: formatter.format(_lost(count)))
        self.access = AccessLog(self.access_lines.write, settings.access_log)
        self._handler = LineHandler(self.lines)
        self._handler.setFormatter(formatter)
        self._default = settings.log_level
        self._levels = ""
        self._targets: set[str] = set()
        self._found = {name: logging.getLogger(name).level for name in ("", ROOT)}
        logging.getLogger().addHandler(self._handler)
        self.set_levels(settings.log_level)

    @property
    def levels(self) -> str:
        """The specification in force."""
        return self._levels

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self.lines.dropped + self.access_lines.dropped

    def set_levels(self, text: str) -> None:
        """Put a specification in force; raises InvalidLevel, then nothing has changed."""
        spec = parse_levels(text)
        for name in self._targets:
            logging.getLogger(name).setLevel(logging.NOTSET)
        # Libraries speak from warnings on: their information is for their authors.
        logging.getLogger().setLevel(max(spec.default, logging.WARNING))
        logging.getLogger(ROOT).setLevel(spec.default)
        self.access.set_level(spec.default)
        self._targets = {name for name, _ in spec.targets if name not in {ROOT, "access"}}
        for name, level in spec.targets:
            if name == "access":
                self.access.set_level(level)
            else:
                logging.getLogger(name).setLevel(level)
        self._levels = text

    def take_levels(self, text: str) -> None:
        """What the settings say from now on; in force if it is anything else than before."""
        if text != self._default:
            self.set_levels(text)
            self._default = text

    def reset_levels(self) -> None:
        """Back to what the settings say."""
        self.set_levels(self._default)

    def batch_with(self, schedule: Schedule) -> None:
        """Collect access lines from now on, written out by `schedule` (the running loop's `call_later`).

        Log lines are few and may come from any thread: they are handed on one by one.
        """
        self.access_lines.schedule = schedule

    def close(self) -> None:
        """Write what is waiting, and leave the logging module as it was."""
        logging.getLogger().removeHandler(self._handler)
        for name in self._targets:
            logging.getLogger(name).setLevel(logging.NOTSET)
        for name, level in self._found.items():
            logging.getLogger(name).setLevel(level)
        self.access_lines.close(CLOSE_WAIT_S)
        self.lines.close(CLOSE_WAIT_S)


class LineHandler(logging.Handler):
    """Hands formatted records to a LineWriter; logging's own lock makes that one thread at a time."""

    def __init__(self, lines: LineWriter) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.write(self.format(record))
        except Exception:  # a field whose str() fails must not take the program down with it
            self._lines.write(f"{stamp(WallTime(record.created))}\terror\tlog\ta line could not be written\n")


class PlainLines(logging.Formatter):
    """The plain layout, with a newline at the end."""

    def format(self, record: logging.LogRecord) -> str:
        fields = " ".join(f"{key}={_plain(value)}" for key, value in _fields(record).items())
        head = f"{stamp(WallTime(record.created))}\t{_level(record)}\t{_scope(record)}\t{_phrase(record)}"
        return f"{head}\t{fields}\n" if fields else f"{head}\n"


class JsonLines(logging.Formatter):
    """One JSON object a line, with a newline at the end."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "level": _level(record),
            "time": stamp(WallTime(record.created)),
            "scope": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_APPEND_NEWLINE).decode()
        except orjson.JSONEncodeError:  # bytes that were no UTF-8, a number beyond 64 bits
            return f"{json.dumps(line, default=str)}\n"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: Instant
    suppressed: int = 0


class Occasional:
    """Logs each phrase `burst` times at once and then `per_s` times a second; the next line says how many were not.

    For what peers can cause at will. Phrases are constants of the program, so what is remembered stays small.
    """

    def __init__(self, logger: logging.Logger, clock: Clock, *, per_s: float = 1.0, burst: int = 5) -> None:
        self._logger = logger
        self._clock = clock
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[str, _Bucket] = {}

    def warning(self, phrase: str, **fields: object) -> None:
        self._log(logging.WARNING, phrase, fields)

    def info(self, phrase: str, **fields: object) -> None:
        self._log(logging.INFO, phrase, fields)

    def error(self, phrase: str, **fields: object) -> None:
        self._log(logging.ERROR, phrase, fields)

    def _log(self, level: int, phrase: str, fields: dict[str, object]) -> None:
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock.now()
        bucket = self._buckets.get(phrase)
        if bucket is None:
            bucket = self._buckets[phrase] = _Bucket(float(self._burst), now)
        bucket.tokens = min(float(self._burst), bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        if bucket.tokens < 1:
            bucket.suppressed += 1
            return
        bucket.tokens -= 1
        if bucket.suppressed:
            fields = {**fields, "suppressed": bucket.suppressed}
            bucket.suppressed = 0
        self._logger.log(level, phrase, extra=fields)


def _lost(count: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": f"{ROOT}.log", "levelno": logging.WARNING, "msg": LOST_LINES, "count": count, "reason": "slow reader"}
    )


def _level(record: logging.LogRecord) -> str:
    return _LEVEL_TEXT.get(record.levelno) or record.levelname.lower()


def _scope(record: logging.LogRecord) -> str:
    return record.name.removeprefix(f"{ROOT}.")


def _phrase(record: logging.LogRecord) -> str:
    """Phrases are ours; a library's message may quote a peer, so it is made to stay on its line."""
    message = record.getMessage()
    return message if message.isprintable() else quoted(message)[1:-1]


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        fields["error"] = f"{type(error).__name__}: {error}"
        if logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            fields["traceback"] = "".join(traceback.format_exception(error))
    return fields


def _plain(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"{value}"
        case str():
            return quoted(value)
        case date():
            return value.isoformat()
        case _:
            return bare(str(value))
