"""Section on conversations: how they drift, and what capping changes in them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from keel.report import figures
from keel.report.content import Picture, Section, Table, missing
from keel.report.findings import turns_under
from keel.report.inputs import ReportInputs
from keel.types import DriftReading, Replay, TurnReading
from keel.words import counted, fixed, percent

_TITLES = {"drift": "Drift of conversations", "replays": "Answered anew: uncapped and capped"}


def drift_sections(inputs: ReportInputs) -> tuple[Section, ...]:
    """Trajectories of given conversations, and replays beside them."""
    return (_drift(inputs), _replays(inputs))


def _drift(inputs: ReportInputs) -> Section:
    readings = tuple(reading for reading in inputs.drift if reading.turns)
    if not readings:
        return missing(
            "drift",
            _TITLES["drift"],
            what="No conversation was read yet",
            command="keel drift RUN FILE",
        )
    axis = inputs.persona_map.axis if inputs.persona_map is not None else None
    paths = Picture(
        "trajectories",
        partial(figures.draw_trajectories, readings, axis),
        "Mean projection of each assistant turn, counted from 1. Rings in vermillion: turns under "
        "the floor. Hover for the beginning of what was said.",
        f"Lines of {counted(len(readings), 'conversation')} along the axis, turn by turn.",
    )
    tokens = Picture(
        "tokens",
        partial(figures.draw_tokens, readings, axis),
        "Projection of every content token of the assistant's turns, one conversation at a time.",
        "Line of per-token projections with the mean of each turn.",
    )
    words = (_say_drift(readings),)
    return Section("drift", _TITLES["drift"], words, (paths, tokens), (_drift_table(readings),))


def _say_drift(readings: tuple[DriftReading, ...]) -> str:
    turns = [(reading, turn) for reading in readings for turn in reading.turns]
    lowest, at = min(turns, key=lambda pair: pair[1].gaps)
    under = turns_under(turn for _, turn in turns)
    judged = sum(turn.is_below_floor is not None for _, turn in turns)
    floor = f" {under} of {judged} turns lie under the floor." if judged else ""
    return (
        f"{counted(len(readings), 'conversation')} with {counted(len(turns), 'assistant turn')}: "
        "each point is one turn's mean projection, 1 where the default's answers lie on average "
        f"and 0 where the roles' do. The lowest point is {fixed(at.gaps)} gap units, turn "
        f"{at.turn + 1} of `{lowest.conversation_id}`.{floor} A path that falls and stays low has "
        "left the Assistant; one dip has not."
    )


def _drift_table(readings: tuple[DriftReading, ...]) -> Table:
    header = ("conversation", "layer", "turns", "first", "last", "lowest", "under the floor")
    rows = tuple(
        (
            reading.conversation_id,
            str(reading.layer),
            str(len(reading.turns)),
            fixed(reading.turns[0].gaps),
            fixed(reading.turns[-1].gaps),
            fixed(min(turn.gaps for turn in reading.turns)),
            str(turns_under(reading.turns)),
        )
        for reading in readings
    )
    return Table("Conversations, projections in gap units", header, rows)


def _replays(inputs: ReportInputs) -> Section:
    replays = tuple(replay for replay in inputs.replays if replay.turns)
    if not replays:
        return missing(
            "replays",
            _TITLES["replays"],
            what="No conversation was answered anew yet",
            command="keel drift RUN FILE --replay",
        )
    axis = inputs.persona_map.axis if inputs.persona_map is not None else None
    picture = Picture(
        "replay-paths",
        partial(figures.draw_replays, replays, axis),
        "Projection of each turn, uncapped in grey and capped in blue. Each arm goes on from its "
        "own answers. Rings in vermillion: turns under the floor. Dotted: the means of default and "
        "roles.",
        f"Pairs of lines for {counted(len(replays), 'replay')}.",
    )
    tables = [_replay_table(replays)]
    tables += [_answers(replay, is_folded=place > 0) for place, replay in enumerate(replays)]
    return Section(
        "replays", _TITLES["replays"], (_say_replays(replays),), (picture,), tuple(tables)
    )


def _say_replays(replays: tuple[Replay, ...]) -> str:
    turns = [turn for replay in replays for turn in replay.turns]
    rise = _mean([turn.capped.gaps - turn.uncapped.gaps for turn in turns])
    under = [
        turns_under(turn.uncapped for turn in turns),
        turns_under(turn.capped for turn in turns),
    ]
    is_judged = any(turn.uncapped.is_below_floor is not None for turn in turns)
    floor = f" Under the floor lie {under[0]} turns uncapped and {under[1]} capped."
    return (
        f"The user messages of {counted(len(replays), 'conversation')} were answered anew twice: "
        "by the model as it is, and with the floors on. Capped, a turn projects "
        f"{fixed(abs(rise))} gap units {'higher' if rise >= 0 else 'lower'} on average over "
        f"{counted(len(turns), 'turn')}.{floor if is_judged else ''} Whether the capped answers "
        "are also the better ones only reading them can tell."
    )


def _replay_table(replays: tuple[Replay, ...]) -> Table:
    header = (
        "conversation",
        "capped with",
        "turns",
        "mean uncapped",
        "mean capped",
        "under the floor, uncapped",
        "under the floor, capped",
        "slots moved",
    )
    rows = []
    for replay in replays:
        uncapped = [turn.uncapped for turn in replay.turns]
        capped = [turn.capped for turn in replay.turns]
        means = [fixed(_mean([turn.gaps for turn in arm])) for arm in (uncapped, capped)]
        under = [str(turns_under(arm)) for arm in (uncapped, capped)]
        name, count = replay.conversation_id, str(len(replay.turns))
        firing = percent(replay.firing_rate, 1)
        rows.append((name, replay.setting, count, *means, *under, firing))
    return Table("Replays, projections in gap units", header, tuple(rows))


def _answers(replay: Replay, *, is_folded: bool) -> Table:
    rows = tuple(
        (
            str(turn.uncapped.turn + 1),
            turn.user,
            _with_gaps(turn.uncapped),
            _with_gaps(turn.capped),
        )
        for turn in replay.turns
    )
    return Table(
        f"Both answers in {replay.conversation_id}",
        ("turn", "user", "uncapped", "capped"),
        rows,
        is_folded=is_folded,
        is_prose=True,
    )


def _with_gaps(turn: TurnReading) -> str:
    state = ", under the floor" if turn.is_below_floor else ""
    return f"{fixed(turn.gaps)} gap units{state}\n\n{turn.text}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
