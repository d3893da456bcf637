"""What other programs ask of a process: is it ready, and its metrics. Anybody may, so both tell nothing else."""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from hbone.admin.messages import TEXT, Answer, Request, text_answer
from hbone.admin.routes import GET_ONLY, READ, Endpoint, Routes
from hbone.telemetry.metrics import CONTENT_TYPE, Metrics

Pending = Callable[[], Iterable[str]]
"""Names of the parts that are not ready yet."""

_GZIP: Final = 16 + zlib.MAX_WBITS  # zlib's way to ask for gzip's header and trailer (zlib manual, deflateInit2)
_FAST: Final = 1  # 15 MB of series shrink to 250 kB in 22 ms; the default level takes 47 ms for 226 kB
_OPENMETRICS: Final = CONTENT_TYPE.partition(";")[0]


def _ready(pending: Pending, _: Request) -> Answer:
    names = sorted(pending())
    return text_answer(f"not ready, pending: {', '.join(names)}", 500) if names else text_answer("ready")


def _metrics(metrics: Metrics, request: Request) -> Answer:
    """The text is OpenMetrics whoever asks: Prometheus' older parser takes it too, `# EOF` is a comment there."""
    openmetrics = _OPENMETRICS in accepted(request.headers.get("accept", ""))
    pieces: Iterable[bytes] = (piece.encode() for piece in metrics.chunks())
    headers = {"vary": "accept, accept-encoding"}
    if "gzip" in accepted(request.headers.get("accept-encoding", "")):
        pieces = _gzipped(pieces)
        headers["content-encoding"] = "gzip"
    return Answer(content_type=CONTENT_TYPE if openmetrics else TEXT, body=pieces, headers=headers)


def accepted(header: str) -> frozenset[str]:
    """What an Accept or Accept-Encoding header names, without its parameters; `q=0` means no (RFC 9110 §12.4.2)."""
    names: set[str] = set()
    for item in header.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weight = next((text.removeprefix("q=") for text in parameters if text.startswith("q=")), "1")
        if name and weight.strip("0.") != "":
            names.add(name)
    return frozenset(names)


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    squeeze = zlib.compressobj(_FAST, zlib.DEFLATED, _GZIP)
    for piece in pieces:
        yield squeeze.compress(piece)
    yield squeeze.flush()


READINESS: Final[Endpoint[Pending]] = Endpoint(
    path="/healthz/ready",
    help="200 once connections are taken, else 500 and what is pending",
    methods=GET_ONLY,
    answer=_ready,
)

METRICS: Final[tuple[Endpoint[Metrics], ...]] = tuple(
    Endpoint(path=path, help="metrics in OpenMetrics text", methods=READ, answer=_metrics)
    for path in ("/metrics", "/stats/prometheus")
)


def readiness_routes(pending: Pending) -> Routes:
    return Routes((READINESS.bind(pending),))


def metrics_routes(metrics: Metrics) -> Routes:
    return Routes(endpoint.bind(metrics) for endpoint in METRICS)
