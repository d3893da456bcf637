"""The results as a table and sentences, for people."""

from collections.abc import Sequence
from itertools import groupby

from hbone.bench.results import Results, Row
from hbone.bench.statistics import Better, Ratio, Summary

NOTHING = "-"


def report(results: Results) -> str:
    """The whole account of a run, ready to print."""
    return "\n".join([*_head(results), "", *table(results), "", *_notes(results)])


def _head(results: Results) -> list[str]:
    machine = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in results.versions.items())
    return [
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_mib} MiB, Linux {machine.kernel}, "
        f"congestion control {machine.congestion_control}",
        versions,
        f"{results.rounds} rounds, {results.part.seconds} s a sample after {results.part.warmup_s} s of warm-up; "
        "median ± half the spread",
    ]


def table(results: Results) -> list[str]:
    """One block of lines for each workload, columns aligned throughout."""
    comparisons = results.comparisons()
    head = ["", *results.candidates, *(f"{ours}/{theirs}" for ours, theirs in comparisons)]
    blocks = [
        (rows[0].workload_title, [_cells(results, row) for row in rows])
        for rows in (list(group) for _, group in groupby(results.rows, key=lambda row: row.workload))
    ]
    widths = _widths([head, *(cells for _, block in blocks for cells in block)])
    lines = [_line(head, widths)]
    for title, block in blocks:
        lines += [title, *(_line(cells, widths) for cells in block)]
    return lines


def _cells(results: Results, row: Row) -> list[str]:
    return [
        f"  {label_text(row)}",
        *(value_text(row, row.summary(candidate)) for candidate in results.candidates),
        *(ratio_text(row.ratio(ours, theirs)) for ours, theirs in results.comparisons()),
    ]


def label_text(row: Row) -> str:
    """`peak memory, MB (at most 1,000)`."""
    figure = row.figure
    unit = f", {figure.unit}" if figure.unit else ""
    if figure.target is None:
        return f"{figure.label}{unit}"
    asked = "at least" if figure.better is Better.HIGHER else "at most"
    return f"{figure.label}{unit} ({asked} {figure.target:,.10g})"


def value_text(row: Row, seen: Summary | None) -> str:
    """`7.71 ±4%`; without the spread for a single sample."""
    if seen is None:
        return NOTHING
    value = f"{seen.median:,.{row.figure.digits}f}"
    return f"{value} ±{seen.spread / 2:.0%}" if seen.count > 1 else value


def _seen_text(row: Row) -> str:
    return ", ".join(f"{candidate} {value_text(row, row.summary(candidate))}" for candidate in row.missed())


def ratio_text(seen: Ratio | None) -> str:
    """`1.08 (5/6)`: the median of the rounds' ratios, and in how many rounds it was no worse."""
    return NOTHING if seen is None else f"{seen.median:.2f} ({seen.agree}/{seen.rounds})"


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *others]).rstrip()


def _notes(results: Results) -> list[str]:
    notes = [f"Not measured: {reason}." for reason in results.absent]
    if results.interrupted:
        notes.append("Interrupted: the last round is not complete, and nothing was kept.")
    notes += [f"Failed: {failure}" for failure in results.failures]
    missed = [row for row in results.rows if row.missed()]
    notes += [f"Target missed: {row.workload}, {label_text(row)}: {_seen_text(row)}." for row in missed]
    if results.comparisons():
        notes.append("Ratios: median of the ratios of single rounds (rounds in which the first is no worse).")
    noise = results.noise()
    return [*notes, noise] if noise else notes
