"""Groups of settings that more than one process has."""

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from hbone.config.fields import Applies, Count, Duration, FrameRate, OptionalDuration, Settings, Size, problem, setting
from hbone.config.levels import check_levels
from hbone.errors import HboneError
from hbone.protocol.limits import Limits as FrameLimits

LIVE, DRAIN, RESTART = Applies.LIVE, Applies.DRAIN, Applies.RESTART


class Timeouts(Settings):
    """How long to wait for what."""

    connect_timeout_s: Duration = setting(10.0, "a TCP connection to a peer or to the application", LIVE, gt=0)
    handshake_timeout_s: Duration = setting(10.0, "a TLS handshake, either side", LIVE, gt=0)
    connect_response_timeout_s: Duration = setting(
        15.0, "the answer to a CONNECT; longer than the far side's own connect timeout", LIVE, gt=0
    )
    idle_tunnel_timeout_s: Duration = setting(
        300.0, "how long a tunnel without streams is kept for reuse", LIVE, env=("POOL_UNUSED_RELEASE_TIMEOUT",)
    )
    drain_deadline_s: Duration = setting(
        5.0,
        "how long connections may finish after SIGTERM before they are cut",
        LIVE,
        env=("CONNECTION_TERMINATION_DEADLINE", "TERMINATION_GRACE_PERIOD_SECONDS"),
    )
    ping_interval_s: Duration = setting(10.0, "time from one answered PING of a tunnel to the next", DRAIN, gt=0)
    ping_timeout_s: Duration = setting(20.0, "a tunnel whose PING is not answered for so long is dead", DRAIN, gt=0)
    half_close_timeout_s: OptionalDuration = setting(
        None, "how long one direction may go on alone after the other ended; none for as long as it likes", LIVE
    )


class Tcp(Settings):
    """Options of TCP sockets."""

    keepalive_enabled: bool = setting(
        True, "TCP keepalive on application connections", LIVE, env=("KEEPALIVE_ENABLED",)
    )
    keepalive_time_s: Duration = setting(
        180.0, "idle time before the first keepalive probe", LIVE, env=("KEEPALIVE_TIME",), ge=1
    )
    keepalive_interval_s: Duration = setting(
        180.0, "time between keepalive probes", LIVE, env=("KEEPALIVE_INTERVAL",), ge=1
    )
    keepalive_retries: Count = setting(
        9, "unanswered probes that end a connection", LIVE, env=("KEEPALIVE_RETRIES",), ge=1, le=127
    )
    user_timeout_enabled: bool = setting(
        False,
        "also give up on unacknowledged data after keepalive time + retries x interval (TCP_USER_TIMEOUT)",
        LIVE,
        env=("USER_TIMEOUT_ENABLED",),
    )


class Http2(Settings):
    """What is announced to the peers of tunnels."""

    stream_window_bytes: Size = setting(
        4 << 20, "receive window of one stream: what one stalled stream can hold", DRAIN,
        env=("HTTP2_STREAM_WINDOW_SIZE",), ge=65_535, le=(1 << 31) - 1,
    )  # fmt: skip
    connection_window_bytes: Size = setting(
        16 << 20, "receive window of a tunnel; above the streams', or one unread stream stops its siblings", DRAIN,
        env=("HTTP2_CONNECTION_WINDOW_SIZE",), ge=65_535, le=(1 << 31) - 1,
    )  # fmt: skip
    max_frame_bytes: Size = setting(
        1 << 20, "largest frame payload accepted", DRAIN, env=("HTTP2_FRAME_SIZE",), ge=16_384, le=(1 << 24) - 1
    )
    max_streams_per_connection_inbound: Count = setting(
        1024, "streams that a peer may have open in one tunnel to us", DRAIN, ge=1, le=(1 << 31) - 1
    )
    pool_max_streams_per_tunnel: Count = setting(
        1024, "streams that we put into one tunnel, if the peer allows as many", LIVE,
        env=("POOL_MAX_STREAMS_PER_CONNECTION",), ge=1, le=(1 << 31) - 1,
    )  # fmt: skip


class Limits(Settings):
    """What others can make this process hold. What is above a limit is refused, counted and said once."""

    max_half_open_handshakes: Count = setting(1024, "TLS handshakes under way at one time", LIVE, ge=1)
    max_inbound_tunnels: Count = setting(10_000, "HBONE connections from peers", LIVE, ge=1)
    max_outbound_tunnels: Count = setting(10_000, "HBONE connections to peers", LIVE, ge=1)
    max_connections: Count = setting(65_536, "connections carried at one time, all directions together", LIVE, ge=1)
    max_buffered_bytes: Size = setting(
        1 << 30, "payload kept for applications that do not take it; beyond, its tunnels get no more credit", DRAIN,
        ge=1 << 20,
    )  # fmt: skip
    max_header_list_bytes_inbound: Size = setting(
        65_536, "header list of a CONNECT, RFC 9113 section 6.5.2", DRAIN, ge=1024, le=1 << 20
    )
    max_header_list_bytes_outbound: Size = setting(
        16_384, "header list of the answer to a CONNECT", DRAIN, ge=1024, le=1 << 20
    )


_FRAMES: Final = FrameLimits()


class Frames(Settings):
    """What one peer may send in one tunnel; past a limit that tunnel ends with ENHANCE_YOUR_CALM.

    A rate is written as `50/s burst 200`: so many at once, refilled by so many a second. Each field is `max_` and
    the name in `hbone.protocol.limits`, where the reasons for the numbers are.
    """

    max_header_block_bytes: Size = setting(
        _FRAMES.header_block_bytes, "compressed header block over all its frames", DRAIN, ge=4096, le=16 << 20
    )
    max_continuations: Count = setting(_FRAMES.continuations, "CONTINUATION frames of one header block", DRAIN, ge=1)
    max_large_headers: FrameRate = setting(_FRAMES.large_headers, "header blocks of more than 16 KiB", DRAIN)
    max_header_list_factor: Count = setting(
        _FRAMES.header_list_factor, "times the header list limit beyond which decoding stops", DRAIN, ge=1, le=64
    )
    max_settings_entries: Count = setting(_FRAMES.settings_entries, "entries of one SETTINGS frame", DRAIN, ge=8)
    max_goaway_bytes: Size = setting(_FRAMES.goaway_bytes, "payload of GOAWAY", DRAIN, ge=8)
    max_settings: FrameRate = setting(_FRAMES.settings, "SETTINGS frames", DRAIN)
    max_pings: FrameRate = setting(_FRAMES.pings, "PING frames", DRAIN)
    max_early_resets: FrameRate = setting(
        _FRAMES.early_resets, "requests reset before they were answered (rapid reset)", DRAIN
    )
    max_resets_we_send: FrameRate = setting(_FRAMES.resets_we_send, "malformed frames that cost a stream", DRAIN)
    max_refusals: FrameRate = setting(_FRAMES.refusals, "streams beyond the announced limit", DRAIN)
    max_empty_data: FrameRate = setting(_FRAMES.empty_data, "DATA frames that carry nothing", DRAIN)
    max_window_updates: FrameRate = setting(_FRAMES.window_updates, "WINDOW_UPDATE frames", DRAIN)
    max_closed_streams: FrameRate = setting(_FRAMES.closed_streams, "frames for streams that are closed", DRAIN)
    max_ignored_frames: FrameRate = setting(
        _FRAMES.ignored_frames, "PRIORITY and unknown frames, which have no effect", DRAIN
    )

    def limits(self) -> FrameLimits:
        """The same values as the protocol core takes them."""
        return FrameLimits(**{name.removeprefix("max_"): getattr(self, name) for name in type(self).model_fields})


def _levels(value: Any) -> Any:
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "{what}", {"what": "not text"})
    try:
        check_levels(value)
    except HboneError as error:
        raise problem(error) from error
    return value


def _off_word(value: Any) -> Any:
    """YAML 1.1 reads an unquoted `off` as false."""
    return "off" if value is False else value


LevelSpec = Annotated[
    str, BeforeValidator(_levels), WithJsonSchema({"type": "string", "examples": ["info", "info,proxy=debug"]})
]
AccessLogFormat = Annotated[Literal["text", "json", "off"], BeforeValidator(_off_word)]


class Logging(Settings):
    """Log lines go to standard error, access lines to standard output."""

    log_level: LevelSpec = setting(
        "info", "error, warn, info, debug, trace or off; also for parts: info,proxy=debug", LIVE, env=("RUST_LOG",)
    )
    log_format: Literal["text", "json"] = setting("text", "layout of log lines", RESTART, env=("LOG_FORMAT",))
    access_log: AccessLogFormat = setting(
        "text", "one line for each finished connection: text, json or off", RESTART, env=("LOG_FORMAT",)
    )
