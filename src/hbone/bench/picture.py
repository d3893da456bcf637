"""The results as bars: an SVG with one group for each workload, its first figure."""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from hbone.bench.report import label_text, value_text
from hbone.bench.results import Results, Row

WIDTH = 760
MARGIN = 16
LABEL_WIDTH = 86
BAR_HEIGHT = 15
BAR_GAP = 3
GROUP_GAP = 26
HEAD_HEIGHT = 44
BAR_SPACE = 430  # the longest bar; the rest of the line is its value
COLOURS = ("#9aa3ad", "#c98a3d", "#e3bd83", "#2f6f9f", "#6b9a4c")
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#24292f}.t{font-size:15px;font-weight:600}.g{font-weight:600}"
    ".m{fill:#57606a}@media(prefers-color-scheme:dark){.b{fill:#0d1117}text{fill:#e6edf3}.m{fill:#9198a1}}"
)


def picture(results: Results) -> str:
    """The SVG document. Bars compare within a group only: each group has its own unit and scale."""
    rows = _first_figures(results)
    y = HEAD_HEIGHT
    parts: list[str] = []
    for row in rows:
        drawn, y = _group(row, results.candidates, y)
        parts += drawn
    height = y + MARGIN
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        f'role="img"><title>hbone bench</title><style>{STYLE}</style>'
        f'<rect class="b" width="{WIDTH}" height="{height}" fill="#fff"/>'
    )
    where = f"{results.machine.cpu}, {results.machine.cores} cores; medians of {results.rounds} rounds; {results.taken}"
    title = _text(MARGIN, MARGIN + 4, "hbone bench", "t") + _text(MARGIN, MARGIN + 20, where, "m")
    return "\n".join([head, title, *parts, "</svg>", ""])


def _first_figures(results: Results) -> list[Row]:
    rows: dict[str, Row] = {}
    for row in results.rows:
        rows.setdefault(row.workload, row)
    return list(rows.values())


def _group(row: Row, candidates: Sequence[str], y: int) -> tuple[list[str], int]:
    """The drawing of one workload from `y` on, and where the next begins."""
    y += GROUP_GAP
    heading = f"{row.workload_title}: {label_text(row)}, {row.figure.better.value} is better"
    parts = [_text(MARGIN, y - 6, heading, "g")]
    seen = {candidate: summary for candidate in candidates if (summary := row.summary(candidate))}
    largest = max((summary.median for summary in seen.values()), default=0.0) or 1.0
    for colour, candidate in zip(COLOURS, candidates, strict=False):
        if candidate not in seen:
            continue
        length = max(1.0, BAR_SPACE * seen[candidate].median / largest)
        x = MARGIN + LABEL_WIDTH
        parts.append(_text(MARGIN, y + BAR_HEIGHT - 4, candidate, "m"))
        parts.append(f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR_HEIGHT}" rx="2" fill="{colour}"/>')
        parts.append(_text(x + length + 6, y + BAR_HEIGHT - 4, value_text(row, seen[candidate]), ""))
        y += BAR_HEIGHT + BAR_GAP
    return parts, y


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}">{escape(words)}</text>'
