"""Sections on drift studies: how far subjects move the model beyond position, and what does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from keel.report.content import Picture, Section, Table
from keel.report.figures.studies import draw_domains, draw_plane, draw_prediction
from keel.report.inputs import ReportInputs
from keel.report.textplot import draw_needle, draw_sparkline
from keel.types import (
    NEUTRAL_DOMAIN,
    AssistantAxis,
    DomainPath,
    DriftStudy,
    Interval,
    PersonaMap,
    StudiedConversation,
    StudiedTurn,
)
from keel.words import NOT_A_NUMBER, counted, fixed, known, listed, p_value, percent

_TITLE = "Conversations"
_LONG = 20
"""Turns beyond which a path is shown at some on the way."""
_READINGS = {
    "with history": "with the history before it",
    "without history": "the same words without it",
    "fresh answer": "another answer to the message alone",
}


def study_sections(inputs: ReportInputs) -> Iterator[Section]:
    """A section for each study."""
    studies = inputs.studies
    axis = inputs.axis
    if axis is None and inputs.persona_map is not None:
        axis = inputs.persona_map.axis
    for name, study in studies.items():
        id = "conversations" if len(studies) == 1 else f"conversations-{name}"
        title = _TITLE if len(studies) == 1 else f"{_TITLE}: {name}"
        paragraphs = (_intro, _over_neutral, _what_words_add, _what_the_prompt_says)
        words = tuple(sentence for tell in paragraphs if (sentence := tell(study)))
        transcripts = inputs.transcripts.get(name, ())
        pictures = [_domains(study, id), *_plane(study, id, inputs.persona_map)]
        pictures += [_forest(study, id)] if study.prediction else []
        yield Section(
            id,
            title,
            words,
            tuple(pictures),
            (
                *_tables(study),
                *_harm_tables(study),
                *_message_tables(study),
                *_transcripts(transcripts, study, axis),
            ),
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


def _what_words_add(study: DriftStudy) -> str:
    """What users say, beyond position, subject and the answer before."""
    added = [row for row in study.prediction if row.columns.startswith("what words add")]
    if not added:
        return ""
    row = added[0]
    assert row.null95 is not None, "what words add has a null"
    is_shown = row.r2.low > 0 and row.r2.value > row.null95
    share = f"{fixed(row.r2.value)} ({row.r2.bounds()}) of the variance of levels"
    null = f"permuted, words explain up to {fixed(row.null95)}"
    if not is_shown:
        return (
            f"That what users say moves the model is not shown: beyond subject, turn and the "
            f"answer before it explains {share} for people whom the fit has not seen, and {null}."
        )
    return (
        f"What users say explains {share} beyond subject, turn and the answer before, for people "
        f"whom the fit has not seen; {null}."
    )


def _what_the_prompt_says(study: DriftStudy) -> str:
    """How far an answer's level is known before its first token."""
    if study.prompt_correlation is None:
        return ""
    sentence = (
        "Before the answer: the level of the prompt's last token correlates with that of the "
        f"answer at r = {study.prompt_correlation.text()}"
    )
    added = [row for row in study.prediction if row.columns.startswith("what the prompt's last")]
    if added and added[0].null95 is not None:
        sentence += (
            f"; beyond subject, turn and the answer before it explains {added[0].r2.text()} of the "
            f"variance of levels, permuted up to {fixed(added[0].null95)}"
        )
    return f"{sentence}."


def _forest(study: DriftStudy, id: str) -> Picture:
    return Picture(
        f"{id}-prediction",
        partial(draw_prediction, study.prediction),
        "Share of the variance explained for people whom the fit has not seen, with 95 % "
        "intervals over people. Crosses: what 95 % of permutations stay below. Hollow: in sample.",
        "A row for each set of columns, by target.",
    )


def _domains(study: DriftStudy, id: str) -> Picture:
    return Picture(
        f"{id}-domains",
        partial(draw_domains, study),
        "Mean level of each domain's conversations, turn by turn; bands: 95 % over people; thin "
        "lines: single conversations. Grey: the neutral conversations under the same arm. Dotted: "
        "the means of default and roles.",
        "Small plots of level by turn, one for each domain.",
    )


def _plane(study: DriftStudy, id: str, persona_map: PersonaMap | None) -> Iterator[Picture]:
    """Where conversations go in persona space; nothing where it was not read."""
    if any(path.reading == "along PC1" for path in study.paths):
        yield Picture(
            f"{id}-plane",
            partial(draw_plane, study, persona_map),
            "Mean coordinates of each domain's turns along the first two components of persona "
            "space, in gap units of the axis: a line runs from the first turn (hollow) to the last "
            f"(filled) under {study.arms[0]}, bars at the last are 95 % over people. Grey: the "
            "roles; the star: the default.",
            "Lines of domains in the plane of two components.",
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
    if study.turns > _LONG:
        marks = [n for n in (1, 10, 25, 50, 100, 200) if n <= study.turns]
        yield Table.of(
            "Level on the way, gap units",
            with_history,
            {
                "domain": lambda path: path.domain,
                "arm": lambda path: path.arm,
                **{f"turn {n}": partial(_at_turn, turn=n) for n in marks},
            },
        )
    yield from _space_tables(study)
    apart = [
        path
        for path in study.paths
        if len(path.levels) == study.turns and path.reading in _READINGS
    ]
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
    yield from _arm_tables(study)


def _arm_tables(study: DriftStudy) -> Iterator[Table]:
    """What arms change, and how levels vary under each."""
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


def _space_tables(study: DriftStudy) -> Iterator[Table]:
    """Paths along the components of persona space.

    Also how much of the chats' variance these explain.
    """
    along = [path for path in study.paths if path.reading in ("along PC1", "along PC2")]
    if along:
        yield Table.of(
            "Along the components of persona space, gap units",
            along,
            {
                "domain": lambda path: path.domain,
                "arm": lambda path: path.arm,
                "component": lambda path: path.reading.removeprefix("along "),
                "first turn": lambda path: _known(path.levels[0]),
                "last turn": lambda path: _known(path.levels[-1]),
                "last turn over neutral": lambda path: _last(path.over_neutral),
            },
        )
    if study.space:
        yield Table.of(
            "Share of the variance of the chats' turns that persona space explains",
            study.space,
            {
                "arm": lambda row: row.arm,
                "components": lambda row: str(row.components),
                "share": lambda row: row.share.text(percent),
                "random directions, 95 % below": lambda row: percent(row.null95),
                "the most that so many can": lambda row: percent(row.most),
                "turns": lambda row: str(row.count),
            },
        )


def _harm_tables(study: DriftStudy) -> Iterator[Table]:
    if study.harm:
        yield Table.of(
            "A request after the last turn: share of harmful answers",
            study.harm,
            {
                "domain": lambda row: row.domain,
                "arm": lambda row: row.arm,
                "harmful": lambda row: _share(row.rate),
                "over neutral": lambda row: _share(row.over_neutral),
                "conversations": lambda row: str(row.count),
            },
        )
    if study.harm_correlations:
        yield Table.of(
            "Whether a lower last turn goes with more harm: the unit is the person",
            study.harm_correlations,
            {
                "arm": lambda row: row.arm,
                "compared": lambda row: row.kind,
                "r": lambda row: row.r.text(),
                "of permutations, 95 % of |r| below": lambda row: fixed(row.null95),
                "per gap unit": lambda row: row.slope.text(percent),
                "people": lambda row: str(row.people),
                "|r| seen in 80 %": lambda row: fixed(row.detectable),
            },
        )


def _share(interval: Interval | None) -> str:
    """A share with its interval, where there is one."""
    if interval is None:
        return NOT_A_NUMBER
    is_known = math.isfinite(interval.high)
    return interval.text(percent) if is_known else percent(interval.value)


def _message_tables(study: DriftStudy) -> Iterator[Table]:
    if study.prediction:
        yield Table.of(
            "What predicts the level of the next answer: R² of people not seen",
            study.prediction,
            {
                "target": lambda row: row.target,
                "columns": lambda row: row.columns,
                "R²": lambda row: _known(row.r2),
                "of permutations, 95 % below": lambda row: known(row.null95),
                "messages": lambda row: str(row.count),
            },
        )
    if study.clusters:
        yield Table.of(
            "Messages by what they say, and how far their answers lie from what was expected",
            study.clusters,
            {
                "words": lambda row: row.name,
                "moves": lambda row: row.effect,
                "shift, gap units": lambda row: _known(row.shift),
                "q": lambda row: p_value(row.q_value),
                "messages": lambda row: str(row.count),
                "people": lambda row: str(row.people),
            },
        )
        yield Table.of(
            "The messages nearest to the middle of each",
            study.clusters,
            {
                "words": lambda row: row.name,
                "messages": lambda row: " / ".join(row.examples),
            },
            is_prose=True,
        )


def _transcripts(
    transcripts: Sequence[StudiedConversation], study: DriftStudy, axis: AssistantAxis | None
) -> Iterator[Table]:
    """Conversations to be read, a needle beside each answer."""

    def needle(turn: StudiedTurn) -> str:
        if axis is None or not turn.levels:
            return NOT_A_NUMBER
        gaps = axis.in_gaps(turn.levels[0].mean, study.layer)
        return f"{draw_needle(gaps, width=12).plain} {fixed(gaps)}"

    for talk in transcripts:
        yield Table.of(
            f"{talk.planned.id}, {talk.arm}: {talk.planned.topic or talk.planned.domain}",
            talk.turns,
            {
                "turn": lambda turn: str(turn.turn + 1),
                "level": needle,
                "said by": _source,
                "user": lambda turn: turn.message,
                "model": lambda turn: turn.answer + (" …" if turn.finish == "length" else ""),
            },
            is_folded=True,
            is_prose=True,
        )


def _source(turn: StudiedTurn) -> str:
    """Who said the message, with what was wrong with those before it."""
    refused = f"; refused before: {', '.join(turn.faults)}" if turn.faults else ""
    return f"{turn.source}{refused}"


def _by_domain(paths: list[DomainPath]) -> list[dict[str, DomainPath]]:
    """The readings of each domain under each arm."""
    rows: dict[tuple[str, str], dict[str, DomainPath]] = {}
    for path in paths:
        rows.setdefault((path.arm, path.domain), {})[path.reading] = path
    return [row for row in rows.values() if "with history" in row]


def _last_of(row: Mapping[str, DomainPath], *, reading: str) -> str:
    """The level of a reading's last turn."""
    return _last(row[reading].levels) if reading in row else NOT_A_NUMBER


def _at_turn(path: DomainPath, *, turn: int) -> str:
    """The level at a turn, counted from 1."""
    return _known(path.levels[turn - 1]) if turn <= len(path.levels) else NOT_A_NUMBER


def _last(levels: tuple[Interval, ...]) -> str:
    return _known(levels[-1]) if levels else NOT_A_NUMBER


def _known(interval: Interval | None) -> str:
    """The number, with its interval where there is one."""
    if interval is None:
        return NOT_A_NUMBER
    return interval.text() if math.isfinite(interval.high) else fixed(interval.value)
