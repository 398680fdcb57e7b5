"""Sections on drift studies: how far subjects move the model beyond position, and what does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial

from keel.report.content import Picture, Section, Table
from keel.report.figures.studies import draw_domains
from keel.report.textplot import draw_sparkline
from keel.types import NEUTRAL_DOMAIN, DomainPath, DriftStudy, Interval
from keel.words import NOT_A_NUMBER, counted, fixed, listed, percent

_TITLE = "Conversations"
_READINGS = {
    "with history": "with the history before it",
    "without history": "the same words without it",
    "fresh answer": "another answer to the message alone",
}


def study_sections(studies: Mapping[str, DriftStudy]) -> Iterator[Section]:
    """A section for each study."""
    for name, study in studies.items():
        id = "conversations" if len(studies) == 1 else f"conversations-{name}"
        title = _TITLE if len(studies) == 1 else f"{_TITLE}: {name}"
        words = tuple(sentence for sentence in (_intro(study), _over_neutral(study)) if sentence)
        yield Section(
            id,
            title,
            words,
            (_domains(study, id),),
            tuple(_tables(study)),
            study.warnings,
        )


def _intro(study: DriftStudy) -> str:
    return (
        f"{counted(study.conversations, 'conversation')} of {counted(study.turns, 'turn')} under "
        f"{listed(study.arms)}, read at layer {study.layer} in gap units: 1 is where the default's "
        "answers to single questions lie, 0 where the roles' do. Intervals are Student's over "
        f"people. The conversations called {NEUTRAL_DOMAIN} are unrelated plain tasks: what "
        "happens to them, the length of a conversation does by itself."
    )


def _over_neutral(study: DriftStudy) -> str:
    """Which domains leave the neutral conversations behind, under the first arm."""
    first = [path for path in study.paths if path.arm == study.arms[0]]
    last = {
        path.domain: path.over_neutral[-1]
        for path in first
        if path.reading == "with history" and path.over_neutral
    }
    lower = [domain for domain, difference in last.items() if difference.high < 0]
    higher = [domain for domain, difference in last.items() if difference.low > 0]
    if not last:
        return ""
    if not lower and not higher:
        return (
            "At the last turn no domain is shown to lie elsewhere than the neutral conversations: "
            "every interval of the difference includes 0."
        )
    parts = [
        f"{listed(names)} {'lies' if len(names) == 1 else 'lie'} {side}"
        for names, side in ((lower, "lower"), (higher, "higher"))
        if names
    ]
    others = "; of the others this is not shown" if len(lower) + len(higher) < len(last) else ""
    return (
        f"At the last turn {' and '.join(parts)} than the neutral conversations, the interval of "
        f"the difference without 0{others}."
    )


def _domains(study: DriftStudy, id: str) -> Picture:
    return Picture(
        f"{id}-domains",
        partial(draw_domains, study),
        "Mean level of each domain's conversations, turn by turn; bands: 95 % over people. Grey: "
        "the neutral conversations under the same arm. Dotted: the means of default and roles.",
        "Small plots of level by turn, one for each domain.",
    )


def _tables(study: DriftStudy) -> Iterator[Table]:
    with_history = [path for path in study.paths if path.reading == "with history"]
    yield Table.of(
        "Level by domain, gap units",
        with_history,
        {
            "domain": lambda path: path.domain,
            "arm": lambda path: path.arm,
            "first turn": lambda path: _known(path.levels[0]),
            "last turn": lambda path: _known(path.levels[-1]),
            "path": lambda path: draw_sparkline([level.value for level in path.levels]).plain,
            "per turn": lambda path: _known(path.slope),
            "last turn over neutral": lambda path: _last(path.over_neutral),
            "per turn over neutral": lambda path: _known(path.slope_over_neutral),
        },
    )
    apart = [path for path in study.paths if len(path.levels) == study.turns]
    if any(path.reading != "with history" for path in apart):
        yield Table.of(
            "The last turn read in three ways, gap units",
            _by_domain(apart),
            {
                "domain": lambda row: row["with history"].domain,
                "arm": lambda row: row["with history"].arm,
                **{
                    words: partial(_last_of, reading=reading)
                    for reading, words in _READINGS.items()
                },
            },
        )
    if study.differences:
        yield Table.of(
            f"What arms change, beside {study.differences[0].baseline}, gap units",
            study.differences,
            {
                "domain": lambda row: row.domain,
                "arm": lambda row: row.arm,
                "first turn": lambda row: _known(row.first_turn),
                "last turn": lambda row: _known(row.last_turn),
            },
        )
    if study.variance:
        yield Table.of(
            "Shares of the variance of levels, turn means removed",
            study.variance,
            {
                "arm": lambda row: row.arm,
                "between domains": lambda row: percent(row.domains),
                "between people": lambda row: percent(row.people),
                "between conversations": lambda row: percent(row.conversations),
                "between turns": lambda row: percent(row.turns),
            },
        )


def _by_domain(paths: list[DomainPath]) -> list[dict[str, DomainPath]]:
    """The readings of each domain under each arm."""
    rows: dict[tuple[str, str], dict[str, DomainPath]] = {}
    for path in paths:
        rows.setdefault((path.arm, path.domain), {})[path.reading] = path
    return [row for row in rows.values() if "with history" in row]


def _last_of(row: Mapping[str, DomainPath], *, reading: str) -> str:
    """The level of a reading's last turn."""
    return _last(row[reading].levels) if reading in row else NOT_A_NUMBER


def _last(levels: tuple[Interval, ...]) -> str:
    return _known(levels[-1]) if levels else NOT_A_NUMBER


def _known(interval: Interval | None) -> str:
    """The number, with its interval where there is one."""
    if interval is None:
        return NOT_A_NUMBER
    return interval.text() if math.isfinite(interval.high) else fixed(interval.value)
