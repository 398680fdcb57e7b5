"""Sections on conversations: how they drift, and what capping changes in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean

from rich.text import Text

from keel.report.content import Picture, Section, Table, missing
from keel.report.figures.drift import draw_replays, draw_tokens, draw_trajectories
from keel.report.inputs import ReportInputs
from keel.report.textplot import draw_drift, draw_replay
from keel.types import AssistantAxis, DriftReading, Interval, Replay, TurnReading
from keel.words import MANY_CUT, NOT_A_NUMBER, counted, fixed, percent

_TITLES = {
    "conversation": "One conversation, uncapped beside capped",
    "drift": "Drift of conversations",
    "replays": "Answered anew: uncapped and capped",
}
_LONGEST_QUOTE = 320


def drift_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Trajectories of given conversations, and replays beside them."""
    axis = inputs.axis
    if axis is None and inputs.persona_map is not None:
        axis = inputs.persona_map.axis
    readings = [reading for reading in inputs.drift if reading.turns]
    replays = [replay for replay in inputs.replays if replay.turns]
    if readings:
        drift = _drift_section(readings, axis)
    elif inputs.drift:
        drift = Section("drift", _TITLES["drift"], ("No turn has any text to read.",))
    else:
        what, command = "No conversation was read yet", "keel drift RUN FILE"
        drift = missing("drift", _TITLES["drift"], what=what, command=command)
    if replays:
        replayed = _replays_section(replays, axis)
    elif inputs.replays:
        replayed = Section("replays", _TITLES["replays"], ("No turn was answered in both arms.",))
    else:
        what, command = "No conversation was answered anew yet", "keel drift RUN FILE --replay"
        replayed = missing("replays", _TITLES["replays"], what=what, command=command)
    return drift, replayed


def conversation_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """The first replayed conversation, both answers of each turn side by side, if there is one."""
    replay = next((replay for replay in inputs.replays if replay.turns), None)
    if replay is None:
        return ()
    higher = sum(turn.capped.gaps > turn.uncapped.gaps for turn in replay.turns)
    first = ", in the first draw," if replay.draws > 1 else ""
    sentence = (
        "The same messages, answered by the model as it is and with the floors on. In "
        f"`{replay.conversation_id}`{first} the capped answer projects higher in {higher} of "
        f"{counted(len(replay.turns), 'turn')}: 0 gap units is the mean of the roles, 1 that of "
        "the default. Each side goes on from its own answers."
    )
    return (
        Section(
            "conversation",
            _TITLES["conversation"],
            (sentence,),
            tables=(_both_answers(replay),),
            is_result=False,
        ),
    )


def _both_answers(replay: Replay, *, is_folded: bool = False) -> Table:
    return Table.of(
        f"Both answers in {replay.conversation_id}",
        replay.turns,
        {
            "turn": lambda turn: str(turn.uncapped.turn + 1),
            "user": lambda turn: turn.user,
            "uncapped": lambda turn: _describe_answer(turn.uncapped),
            "capped": lambda turn: _describe_answer(turn.capped),
        },
        is_folded=is_folded,
        is_prose=True,
    )


def _drift_section(readings: Sequence[DriftReading], axis: AssistantAxis | None) -> Section:
    turns = [(reading, turn) for reading in readings for turn in reading.turns]
    lowest, at = min(turns, key=lambda pair: pair[1].gaps)
    low = _low_words([turn for _, turn in turns], readings[0].false_alarms)
    conversations = counted(len(readings), "conversation")
    sample = f"n = {counted(len(turns), 'turn')} of {conversations}"
    sentence = (
        f"{conversations} with {counted(len(turns), 'assistant turn')}: "
        "each point is one turn's mean projection, 1 where the default's answers lie on average "
        f"and 0 where the roles' do. The lowest point is {fixed(at.gaps)} gap units, turn "
        f"{at.turn + 1} of `{lowest.conversation_id}`. {low} {_fall_words(turns)}"
    )
    paths = Picture(
        "trajectories",
        partial(draw_trajectories, readings, axis),
        "Mean projection of each assistant turn, counted from 1. Rings in vermillion: turns "
        "that are unusually low. Dash-dotted, where it is known: the level that default "
        "conversations have at each turn. Hover for the beginning of what was said.",
        f"Lines of {conversations} along the axis, turn by turn.",
        None if axis is None else partial(_stack, draw_drift, readings, axis),
        sample=f"{sample}, each read once: no interval.",
    )
    tokens = Picture(
        "tokens",
        partial(draw_tokens, readings, axis),
        "Projection of every content token of the assistant's turns, one conversation at a time.",
        "Line of per-token projections with the mean of each turn.",
        sample=f"{sample}; single tokens: no interval.",
    )
    table = Table.of(
        "Conversations, projections in gap units",
        readings,
        {
            "conversation": lambda reading: reading.conversation_id,
            "layer": lambda reading: str(reading.layer),
            "turns": lambda reading: str(len(reading.turns)),
            "not read": lambda reading: str(len(reading.unread)),
            "first": lambda reading: fixed(reading.turns[0].gaps),
            "last": lambda reading: fixed(reading.turns[-1].gaps),
            "lowest": lambda reading: fixed(min(turn.gaps for turn in reading.turns)),
            "last minus expected": lambda reading: _over_expected(reading.turns[-1]),
            "last without history": lambda reading: _or_none(reading.turns[-1].gaps_alone),
            "unusually low": lambda reading: _count_low(reading.turns, reading.false_alarms),
        },
    )
    return Section("drift", _TITLES["drift"], (sentence,), (paths, tokens), (table,))


def _stack(
    draw: Callable[..., Text],
    paths: Sequence[DriftReading] | Sequence[Replay],
    axis: AssistantAxis,
    *,
    width: int,
) -> Text:
    """Each path as a terminal shows it, one under the other."""
    return Text("\n\n").join(draw(path, axis, width=width) for path in paths)


def _replays_section(replays: Sequence[Replay], axis: AssistantAxis | None) -> Section:
    turns = [turn for replay in replays for turn in replay.turns]
    rise = fmean(capped - uncapped for uncapped, capped in (turn.mean_gaps for turn in turns))
    uncapped = sum(turn.uncapped.is_low for turn in turns)
    capped = sum(turn.capped.is_low for turn in turns)
    several = any(replay.draws > 1 for replay in replays)
    first = " in the first draw" if several else ""
    low = f" Unusually low for their turn are{first} {uncapped} turns uncapped and {capped} capped."
    sentence = (
        f"The user messages of {counted(len(replays), 'conversation')} were answered anew by the "
        "model as it is, and with the floors on. Capped, a turn projects "
        f"{fixed(abs(rise))} gap units {'higher' if rise >= 0 else 'lower'} on average over "
        f"{counted(len(turns), 'turn')}{' and all draws' if several else ''}; "
        f"{sum(replay.lowered for replay in replays)} of these lie lower capped."
        f"{low if replays[0].false_alarms else ''} Whether "
        "the capped answers are also the better ones only reading them can show."
        f"{_say_cut([arm for turn in turns for arm in (turn.uncapped, turn.capped)], first)}"
    )
    picture = Picture(
        "replay-paths",
        partial(draw_replays, replays, axis),
        "Projection of each turn, uncapped in grey and capped in blue. Each arm goes on from its "
        "own answers. Rings in vermillion: turns that are unusually low. Dotted: the means of "
        "default and roles.",
        f"Pairs of lines for {counted(len(replays), 'replay')}.",
        None if axis is None else partial(_stack, draw_replay, replays, axis),
        sample=_replay_sample(replays),
    )
    tables = tuple(_replay_tables(replays))
    ends = tuple(
        f"{replay.conversation_id} ends before its last user message: {replay.ended}"
        for replay in replays
        if replay.ended
    )
    return Section("replays", _TITLES["replays"], (sentence,), (picture,), tables, ends)


def _replay_sample(replays: Sequence[Replay]) -> str:
    """How many turns of how many draws, and what the bands are."""
    turns = counted(sum(len(replay.turns) for replay in replays), "turn")
    draws = {replay.draws for replay in replays}
    if draws == {1}:
        return f"n = {turns} in each arm, answered once: no interval."
    times = f"{min(draws)} to {max(draws)}" if len(draws) > 1 else str(*draws)
    return (
        f"n = {turns} in each arm, of {times} draws; lines are the first draw, bands 95 % of the "
        "mean over draws."
    )


def _say_cut(answers: Sequence[TurnReading], where: str) -> str:
    """How many answers were cut at the token limit, and what it means where most were."""
    known = [answer.is_cut for answer in answers if answer.is_cut is not None]
    if not any(known):
        return ""
    words = f" {sum(known)} of {counted(len(known), 'answer')}{where} were cut at the token limit"
    if sum(known) > MANY_CUT * len(known):
        return f"{words}: levels are of how answers begin; allow longer ones (--max-new-tokens)."
    return f"{words}."


def _replay_tables(replays: Sequence[Replay]) -> Iterator[Table]:
    several = any(replay.draws > 1 for replay in replays)
    yield Table.of(
        "Replays, projections in gap units"
        + (
            "; of several draws means are of all, marks and cut answers are of the first"
            if several
            else ""
        ),
        [
            (replay, [t.uncapped for t in replay.turns], [t.capped for t in replay.turns])
            for replay in replays
        ],
        {
            "conversation": lambda row: row[0].conversation_id,
            "capped with": lambda row: row[0].setting,
            "turns": lambda row: str(len(row[1])),
            "mean uncapped": lambda row: fixed(fmean(t.mean_gaps[0] for t in row[0].turns)),
            "mean capped": lambda row: fixed(fmean(t.mean_gaps[1] for t in row[0].turns)),
            "turns lower capped": lambda row: f"{row[0].lowered} of {len(row[1])}",
            "unusually low, uncapped": lambda row: _count_low(row[1], row[0].false_alarms),
            "unusually low, capped": lambda row: _count_low(row[2], row[0].false_alarms),
            "cut off": lambda row: _share_cut([*row[1], *row[2]]),
            "slots moved": lambda row: percent(row[0].firing_rate, 1),
        },
    )
    raised_most = [
        max(replay.turns, key=lambda turn: turn.capped.gaps - turn.uncapped.gaps)
        for replay in replays
    ]
    yield Table.of(
        "Where the two arms lie farthest apart" + (" in the first draw" if several else ""),
        zip(replays, raised_most, strict=True),
        {
            "conversation": lambda row: row[0].conversation_id,
            "user": lambda row: row[1].user,
            "uncapped": lambda row: _quote(row[1].uncapped.text),
            "capped": lambda row: _quote(row[1].capped.text),
        },
        is_prose=True,
    )
    for replay in replays:
        yield from _spread_table(replay)
    for replay in replays[1:]:  # the first has a section of its own
        yield _both_answers(replay, is_folded=True)


def _spread_table(replay: Replay) -> Iterator[Table]:
    """Each turn over the draws, where there are several."""
    spreads = [(turn, turn.spread) for turn in replay.turns if turn.spread is not None]
    if spreads:
        yield Table.of(
            f"{replay.conversation_id} turn by turn over {replay.draws} draws, gap units",
            spreads,
            {
                "turn": lambda row: str(row[0].uncapped.turn + 1),
                "uncapped": lambda row: row[1].uncapped.text(),
                "capped": lambda row: row[1].capped.text(),
                "capped − uncapped": lambda row: row[1].difference.text(),
                "draws": lambda row: str(row[1].draws),
            },
        )


def case_section(replay: Replay, axis: AssistantAxis | None) -> Section:
    """All of one replay: its paths, every turn with its interval, and both answers of each."""
    section = _replays_section([replay], axis)
    tables = (*section.tables[:1], *_spread_table(replay), _both_answers(replay))
    return replace(section, tables=tables)


def _share_cut(answers: Sequence[TurnReading]) -> str:
    """The share of answers cut at the token limit, where it is known of any."""
    known = [answer.is_cut for answer in answers if answer.is_cut is not None]
    return percent(sum(known) / len(known)) if known else NOT_A_NUMBER


def _describe_answer(turn: TurnReading) -> str:
    state = f", {turn.mark}" if turn.is_low else ""
    return f"{fixed(turn.gaps)} gap units{state}\n\n{turn.text}"


def _quote(text: str) -> str:
    words = " ".join(text.split())
    if len(words) <= _LONGEST_QUOTE:
        return words
    return words[: _LONGEST_QUOTE - 1].rsplit(" ", 1)[0] + " …"


def _low_words(turns: Sequence[TurnReading], false_alarms: Interval | None) -> str:
    """How many turns are marked, and how many would be by chance."""
    if false_alarms is None:
        return (
            "No turn is marked as low: the run knows too few default answers, or questions, to say "
            "how low they usually lie. Extract again with more questions, or map an older run "
            "anew: keel extract MODEL -o NEW --rollouts-from RUN."
        )
    firsts = [turn for turn in turns if turn.turn == 0]
    words = (
        f"{sum(turn.is_low for turn in firsts)} of {counted(len(firsts), 'first turn')} "
        f"{'is' if len(firsts) == 1 else 'are'} marked as unusually low: lower than all but "
        f"{percent(false_alarms.value)} of the model's own default answers of their length to "
        "single questions. By what the run knows of those, "
        f"{false_alarms.bounds(percent)} of them would be marked."
    )
    judged = [turn for turn in turns if turn.turn > 0 and turn.expected_gaps is not None]
    if judged:
        words += (
            f" Of later turns {sum(turn.is_low for turn in judged)} of {len(judged)} are: lower "
            f"than all but {percent(false_alarms.value)} of default conversations at their turn."
        )
    return words


def _fall_words(turns: Sequence[tuple[DriftReading, TurnReading]]) -> str:
    """What a falling path says, and what it does not."""
    if any(turn.expected_gaps is not None for _, turn in turns):
        return (
            "Conversations fall by themselves: compare a path with the level that default ones "
            "have at each turn. One that stays far below it has left the Assistant; one dip has "
            "not."
        )
    if all(turn.turn == 0 for _, turn in turns):
        return ""
    return (
        "Conversations fall by themselves, how far is not known in this run: later turns are not "
        "marked, and a path that falls need not have left the Assistant. Let the run know it: "
        "keel drift calibrate RUN, or keel drift study RUN."
    )


def _over_expected(turn: TurnReading) -> str:
    """How far a turn lies above what is expected at it, in gap units."""
    return _or_none(None if turn.expected_gaps is None else turn.gaps - turn.expected_gaps)


def _or_none(value: float | None) -> str:
    return NOT_A_NUMBER if value is None else fixed(value)


def _count_low(turns: Sequence[TurnReading], false_alarms: Interval | None) -> str:
    """Number of marked turns, of those that can be judged."""
    if false_alarms is None:
        return NOT_A_NUMBER
    judged = sum(turn.turn == 0 or turn.expected_gaps is not None for turn in turns)
    return f"{sum(turn.is_low for turn in turns)} of {judged}"
