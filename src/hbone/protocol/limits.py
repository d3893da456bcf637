"""What a peer may make us hold or do. Past a limit, the connection ends with ENHANCE_YOUR_CALM.

Rates are token buckets: `burst` at once, then `per_s`. They are wide enough for every honest peer that we know and
narrow enough that the work they leave is a small part of a core (a control frame costs us 2 to 4 µs).
"""

from typing import Final

from hbone.errors import UsageError
from hbone.values import dataclass

LARGE_HEADER_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """`burst` events at once, refilled by `per_s`."""

    burst: int
    per_s: float

    def __post_init__(self) -> None:
        if self.burst < 1 or self.per_s < 0:
            raise UsageError(f"a rate of {self.burst} and {self.per_s:g} a second", fix="use a burst of 1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Each limit, with what it guards against and who else has it.

    - `header_block_bytes`: HPACK bytes of one block, over all CONTINUATION frames (CVE-2024-27316 and its siblings).
      Go and Envoy tie it to the header list; ours is twice the larger default list, since raw bytes are seldom longer.
    - `continuations`: frames of one block after HEADERS. h2 allows 64; an honest sender fills its frames of 16 KiB.
    - `large_headers`: header blocks of more than `LARGE_HEADER_BYTES`. Honest tunnels have none: a CONNECT takes some
      300 bytes, 8 KiB with all the baggage that W3C asks for. One that is made to be slow (many small literals beside a
      long one, Huffman codes) keeps the decoder busy for a tenth of a second at 128 KiB.
    - `header_list_factor`: a list of up to so many times the announced size is decoded and the request alone refused;
      beyond, decoding stops, which ends the connection, since the compression state is lost.
    - `settings_entries`: pairs in one SETTINGS frame. nghttp2: 32; 64 leaves room for unknown ones.
    - `goaway_bytes`: payload of GOAWAY. Debug text is for people.
    - `settings`, `pings`: SETTINGS and PING floods (CVE-2019-9515, -9512). Keep-alives come every 10 s, bandwidth
      probes of gRPC stacks some tens a second.
    - `early_resets`: RST_STREAM for a request that we have not answered (rapid reset, CVE-2023-44487). ztunnel: 20
      pending; nghttp2: 1000, then 33 a second. A node whose thousand clients are killed at once is honest.
    - `resets_we_send`: streams that we must reset for the peer's faults (MadeYouReset, CVE-2025-8671). ztunnel: 1024.
    - `refusals`: streams beyond MAX_CONCURRENT_STREAMS or after GOAWAY. Envoy opens some hundred before it has
      seen our SETTINGS, so the burst is large.
    - `empty_data`: DATA without a byte and without END_STREAM (CVE-2019-9518). Envoy: 1 in a row.
    - `window_updates`: a peer with small windows sends one for each 16 KiB frame, at 8 Gb/s 60 000 a second.
    - `closed_streams`: RST_STREAM and HEADERS for streams that are closed. Envoy sends such a RST_STREAM for each
      stream that has ended, so this is as wide as new connections can be fast.
    - `ignored_frames`: PRIORITY (CVE-2019-9513), unknown types, interim responses; some peers send unknown types on
      purpose.
    """

    header_block_bytes: int = 128 * 1024
    continuations: int = 32
    large_headers: Rate = Rate(burst=20, per_s=1)
    header_list_factor: int = 4
    settings_entries: int = 64
    goaway_bytes: int = 16_384
    settings: Rate = Rate(burst=50, per_s=5)
    pings: Rate = Rate(burst=200, per_s=50)
    early_resets: Rate = Rate(burst=1000, per_s=100)
    resets_we_send: Rate = Rate(burst=1000, per_s=100)
    refusals: Rate = Rate(burst=10_000, per_s=1000)
    empty_data: Rate = Rate(burst=1000, per_s=100)
    window_updates: Rate = Rate(burst=20_000, per_s=100_000)
    closed_streams: Rate = Rate(burst=20_000, per_s=20_000)
    ignored_frames: Rate = Rate(burst=2000, per_s=1000)
