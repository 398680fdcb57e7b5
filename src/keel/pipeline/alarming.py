"""Calibrates a run's alarm on conversations, and watches conversations with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from keel.alarm import (
    FEWEST_CONVERSATIONS,
    Alarm,
    ConversationMeans,
    TurnMean,
    TurnVerdict,
    fit_alarm,
    system_hash,
    turn_levels,
)
from keel.drift import Gauge, check_answered
from keel.engines import Engine, Recording
from keel.errors import TooFewSamplesError, UsageError
from keel.pipeline.axis import check_same_model, drift_layer
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.prompts import load_library
from keel.seeds import seed_of, shuffle_key, text_hash
from keel.settings import AlarmSettings, WatchSettings
from keel.store import JournalFolder, Run, RunFolder
from keel.types import Conversation, Message, Prompt
from keel.words import counted


@dataclass(frozen=True)
class LayerChoice:
    """Where an alarm reads, and what that costs."""

    layer: int
    d_prime: float
    """Of single answers: default against roles, at this layer."""
    axis_layer: int
    axis_d_prime: float
    first_capped: int | None
    """The lowest layer with a floor in any of the run's settings; None without floors."""

    @property
    def sentence(self) -> str:
        """The choice in words."""
        if self.first_capped is None:
            return f"The alarm reads layer {self.layer} (d′ {self.d_prime:.2f})."
        return (
            f"The alarm reads layer {self.layer} (d′ {self.d_prime:.2f}), below the floors, which "
            f"begin at layer {self.first_capped}: there every turn stands at its floor. It sees "
            "what the uncapped model would make of the text, pressure and not behaviour. At the "
            f"axis' own layer {self.axis_layer} d′ is {self.axis_d_prime:.2f}."
        )


@dataclass(frozen=True)
class WatchedConversation:
    """A conversation's verdicts, turn by turn."""

    id: str
    verdicts: tuple[TurnVerdict, ...]
    other_system: bool = False
    """Whether its system prompt is another than the calibrated one: then nothing is judged."""

    @property
    def state(self) -> str:
        """The last turn's state; `unknown` where nothing was judged."""
        return self.verdicts[-1].state if self.verdicts else "unknown"


def alarm_layer(run: Run, layer: int | None = None) -> LayerChoice:
    """The layer given, or the best below the run's floors; without floors the axis' own.

    Raises UsageError for a layer that lies in the band of the run's floors or above it, for one
    that the model has not, and where floors begin at layer 0.
    """
    capped = [
        floor_layer
        for name in (run.settings if run.has_calibration else ())
        for floor_layer in run.floors_named(name).layers
    ]
    first = min(capped, default=None)
    d_primes = [quality.d_prime.value for quality in run.persona_map.quality]
    own = run.axis.layer
    if first == 0:
        raise UsageError(
            f"the floors of {run.path} begin at layer 0, and from there on every turn stands at "
            "its floor: no layer is left for an alarm; calibrate floors from a later layer on"
        )
    if layer is None:
        below = range(len(d_primes) if first is None else first)
        layer = own if first is None or own < first else max(below, key=lambda n: d_primes[n])
    Gauge(run.axis, layer)
    if first is not None and layer >= first:
        raise UsageError(
            f"layer {layer} is no layer for an alarm: floors begin at layer {first}, and from "
            f"there on every turn stands at its floor; choose one from 0 to {first - 1}"
        )
    return LayerChoice(layer, d_primes[layer], own, d_primes[own], first)


def check_calibration(
    run: Run, conversations: Sequence[Conversation], settings: AlarmSettings
) -> None:
    """Raise, before a model is loaded, where there is too little to calibrate an alarm on."""
    alarm_layer(run, settings.layer)
    chosen = _under_system(conversations, settings)
    check_answered(chosen)
    if not chosen and not settings.simulate:
        raise TooFewSamplesError(
            f"{counted(len(conversations), 'conversation')} given, none to calibrate on; give logs "
            "with --chats FILE, without --system or with theirs, or simulate: --simulate 100"
        )
    speakers = ([message.speaker for message in each.messages] for each in chosen)
    usable = sum(each.count("assistant") > 1 for each in speakers)
    if usable + settings.simulate < FEWEST_CONVERSATIONS:
        raise TooFewSamplesError(
            f"{usable} of {len(chosen)} conversations have two answers, expected "
            f"{FEWEST_CONVERSATIONS} at least; give more logs, or simulate: --simulate 100"
        )


def calibrate_alarm(
    engine: Engine,
    folder: RunFolder,
    conversations: Sequence[Conversation],
    settings: AlarmSettings = AlarmSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Alarm:
    """The alarm fitted to conversations of the default, kept in the run.

    Given ones are read; with `simulate` more are answered first. What was read and answered is
    kept, so that an interrupted call goes on. Raises TooFewSamplesError for fewer than 10
    conversations of two turns.
    """
    run = folder.read()
    check_same_model(engine, run.axis)
    check_calibration(run, conversations, settings)
    layer = alarm_layer(run, settings.layer).layer
    chosen = _under_system(conversations, settings)
    work = JournalFolder.of_alarm(folder.path)
    source = f"{counted(len(chosen), 'conversation')} given" if chosen else ""
    with folder.lock():
        if settings.simulate:
            chosen += _simulated(engine, work, settings, on_progress)
            source += f"{' and ' if source else ''}{settings.simulate} simulated"
        layers = tuple(dict.fromkeys((layer, *_drift_layers(run))))
        means = _read(engine, run, work, chosen, layers, on_progress)
        systems = {system_hash(each.system) for each in chosen}
        blank = Alarm(
            layer=layer,
            direction=run.axis.direction[layer].float(),
            zero=float(run.axis.role_projection[layer]),
            gap=float(run.axis.gap[layer]),
            expected=(1.0,),
            between=0.0,
            within=1.0,
            token=0.0,
            identity=run.axis.identity,
            drop=settings.drop,
            rate=settings.rate,
        )
        blank = replace(
            blank,
            statistic=settings.statistic,
            thresholds={f"{settings.rate:g}": 1.0},
            horizon=None if settings.statistic == "mixture" else settings.horizon,
            system_sha256=systems.pop() if len(systems) == 1 else None,
        )
        if blank.statistic == "mixture":
            blank = replace(blank, thresholds={})
        alarm = fit_alarm(
            blank, means[layer], source=source, horizon=settings.horizon, on_progress=on_progress
        )
        levels = [turn_levels(_at(run, blank, n), means[n], source=source) for n in layers]
        alarm = replace(alarm, levels=tuple(levels))
        folder.save_alarm(alarm)
    return alarm


def _drift_layers(run: Run) -> list[int]:
    """Where `keel drift` reads: the axis' own layer, and that beside each setting's floors."""
    names = run.settings if run.has_calibration else ()
    return [run.axis.layer, *(drift_layer(run.axis, run.floors_named(name)) for name in names)]


def _at(run: Run, blank: Alarm, layer: int) -> Alarm:
    """The blank alarm at another layer."""
    return replace(
        blank,
        layer=layer,
        direction=run.axis.direction[layer].float(),
        zero=float(run.axis.role_projection[layer]),
        gap=float(run.axis.gap[layer]),
    )


def watch(
    engine: Engine,
    run: Run,
    conversations: Sequence[Conversation],
    settings: WatchSettings = WatchSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Iterator[WatchedConversation]:
    """Each conversation's verdicts by the run's alarm, in the order given."""
    alarm = run.alarm
    alarm.check_model(engine.identity)
    monitor = alarm.monitor(rate=settings.rate)
    check_answered(conversations)
    work = JournalFolder.of_alarm(run.path)
    means = _read(engine, run, work, conversations, (alarm.layer,), on_progress)[alarm.layer]
    for number, (conversation, read) in enumerate(zip(conversations, means, strict=True)):
        if not alarm.fits_system(conversation.system):
            yield WatchedConversation(conversation.id, (), other_system=True)
            continue
        by_turn = {turn.turn: turn for turn in read.turns}
        count = sum(m.speaker == "assistant" for m in conversation.messages)
        key, verdicts = str(number), []
        for turn in range(count):
            known = by_turn.get(turn)
            mean, tokens = (known.mean, known.tokens) if known is not None else (0.0, 0)
            verdicts.append(monitor.turn(key, mean=mean, tokens=tokens))
        monitor.forget(key)
        yield WatchedConversation(conversation.id, tuple(verdicts))


def _under_system(
    conversations: Sequence[Conversation], settings: AlarmSettings
) -> list[Conversation]:
    if settings.system is None:
        return list(conversations)
    return [each for each in conversations if each.system == settings.system]


def _read(
    engine: Engine,
    run: Run,
    work: JournalFolder,
    conversations: Sequence[Conversation],
    layers: Sequence[int],
    on_progress: OnProgress,
) -> dict[int, list[ConversationMeans]]:
    """Every turn's level by layer; what was read before is not read again."""
    gauges = [Gauge(run.axis, layer) for layer in layers]
    axis = run.manifest.files.get("axis.safetensors", "")[:12]
    name = f"read-{'-'.join(map(str, layers))}-{axis}"
    kept = {row["key"]: row["turns"] for row in work.values(name, dict)}
    keys = [_key(conversation) for conversation in conversations]
    missing = [n for n, key in enumerate(keys) if key not in kept]
    counter = Counter("reading conversations", len(conversations), on_progress)
    counter.reach(len(conversations) - len(missing))
    recording = Recording(probes=tuple(gauge.recording.probes[0] for gauge in gauges))
    for reading in engine.read([conversations[n] for n in missing], recording=recording):
        turns: list[list[Any]] = [[] for _ in layers]
        for record in reading.turns:
            assert record.projections_TK is not None, "the engine recorded no projections"
            for column, gauge in enumerate(gauges):
                heights_TK = record.projections_TK[:, column : column + 1]
                turn = gauge.reading(record.turn, heights_TK, "")
                if turn is not None:
                    made = TurnMean.of(record.turn, turn.token_projections)
                    turns[column].append([made.turn, made.mean, made.tokens, made.blocks])
        key = keys[missing[reading.index]]
        work.append(name, [{"key": key, "turns": turns}])
        kept[key] = turns
        counter.add(1)
    return {
        layer: [
            ConversationMeans(
                each.id, tuple(_turn_mean(row) for row in kept[key][column]), _group(each)
            )
            for each, key in zip(conversations, keys, strict=True)
        ]
        for column, layer in enumerate(layers)
    }


def _group(conversation: Conversation) -> str:
    """What a conversation is counted under: its system prompt, by the first digits of its hash."""
    if conversation.system is None:
        return "no system prompt"
    return f"system prompt {system_hash(conversation.system)[:8]}"


def _turn_mean(row: Sequence[Any]) -> TurnMean:
    """A turn as it was kept."""
    turn, mean, tokens, blocks = row
    return TurnMean(turn, mean, tokens, {size: tuple(block) for size, block in blocks.items()})


def _key(conversation: Conversation) -> str:
    """A hash of all that was said, so that no text is kept."""
    parts = [(m.speaker, m.content, list(m.token_ids or ())) for m in conversation.messages]
    return text_hash(repr(parts), 24)


def _simulated(
    engine: Engine, work: JournalFolder, settings: AlarmSettings, on_progress: OnProgress
) -> list[Conversation]:
    """Conversations of unrelated questions, answered by the model; those kept are not redone."""
    plan = (settings.turns, settings.system, settings.sampling.settings, settings.seed)
    name = f"simulated-{text_hash(repr(plan), 12)}"
    kept = {row["number"]: row for row in work.values(name, dict)}
    counter = Counter("simulating conversations", settings.simulate, on_progress)
    missing = [n for n in range(settings.simulate) if n not in kept]
    counter.reach(settings.simulate - len(missing))
    for start in range(0, len(missing), settings.at_once):
        group = missing[start : start + settings.at_once]
        rows = [
            {"number": number, "said": [[m.speaker, m.content, m.token_ids] for m in talk.messages]}
            for number, talk in zip(group, _talks(engine, group, settings), strict=True)
        ]
        work.append(name, rows)
        kept.update((row["number"], row) for row in rows)
        counter.add(len(group))
    return [_conversation(kept[number]) for number in range(settings.simulate)]


def _conversation(row: dict[str, Any]) -> Conversation:
    messages = (
        Message(speaker, content, None if ids is None else tuple(ids))
        for speaker, content, ids in row["said"]
    )
    return Conversation(tuple(messages), f"simulated-{row['number'] + 1:03d}")


def _talks(engine: Engine, numbers: Sequence[int], settings: AlarmSettings) -> list[Conversation]:
    questions = load_library().questions
    opening = (Message("system", settings.system),) if settings.system else ()
    orders = [
        sorted(questions, key=lambda q, n=number: shuffle_key(settings.seed, f"{n}/{q.text}"))  # type: ignore[misc]
        for number in numbers
    ]
    talks: list[tuple[Message, ...]] = [opening for _ in numbers]
    for turn in range(settings.turns):
        talks = [
            (*talk, Message("user", order[turn].text))
            for talk, order in zip(talks, orders, strict=True)
        ]
        prompts = [
            Prompt(f"alarm/{number}/{turn}", Conversation(talk))
            for number, talk in zip(numbers, talks, strict=True)
        ]
        seeds = [seed_of(settings.seed, "alarm", number, turn) for number in numbers]
        answers = sorted(
            engine.generate(prompts, settings.sampling, seed=seeds), key=lambda a: a.index
        )
        talks = [
            (*talk, Message("assistant", answer.text, answer.token_ids))
            for talk, answer in zip(talks, answers, strict=True)
        ]
    return [Conversation(talk) for talk in talks]
