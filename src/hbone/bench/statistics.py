"""Medians, spreads and ratios of what was measured; computes only.

Rounds are interleaved, so the n-th sample of one candidate was taken seconds from the n-th of another, on a
machine that was about as fast. Hence ratios are built per round and their median is taken; the ratio of two
medians would compare different minutes. A sample that failed is None and drops out with its round.
"""

from collections.abc import Sequence
from enum import Enum
from statistics import median

from hbone.values import dataclass

Samples = Sequence[float | None]


class Better(Enum):
    """Which way a figure is good."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One candidate's samples of one figure.

    `spread` is (largest - smallest) / median, 0 for a single sample.
    """

    median: float
    spread: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One candidate against another: median of the per-round ratios, and in how many rounds it was no worse."""

    median: float
    agree: int
    rounds: int
    per_round: tuple[float, ...]


def summary(samples: Samples) -> Summary | None:
    """None when no sample was taken."""
    taken = [sample for sample in samples if sample is not None]
    if not taken:
        return None
    middle = median(taken)
    spread = (max(taken) - min(taken)) / middle if middle else 0.0
    return Summary(median=middle, spread=spread, count=len(taken))


def ratio(ours: Samples, theirs: Samples, better: Better) -> Ratio | None:
    """`ours` / `theirs`, round by round; None when no round has both (or theirs is 0)."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a is not None and b]
    if not pairs:
        return None
    per_round = tuple(a / b for a, b in pairs)
    agree = sum(value >= 1 if better is Better.HIGHER else value <= 1 for value in per_round)
    return Ratio(median=median(per_round), agree=agree, rounds=len(per_round), per_round=per_round)
