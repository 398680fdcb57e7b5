"""Uses a run's axis: calibrates floors, makes arms, reads drift, replays conversations."""

from __future__ import annotations

from collections import Counter as Occurrences
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from keel.calibrate import calibrate_floors, choose_calibration, choose_rollouts
from keel.drift import Gauge, check_answered, check_questions, read_drift, read_thinking, replay
from keel.engines import Engine
from keel.errors import MissingArtifactError, ModelMismatchError, UsageError
from keel.evaluate import Arm, ArmSources, ArmSpec, make_arms
from keel.pipeline.progress import Counter, OnProgress, silent
from keel.seeds import text_hash
from keel.settings import CalibrateSettings, DriftSettings
from keel.store import JournalFolder, Run, RunFolder
from keel.types import (
    AssistantAxis,
    Calibration,
    Conversation,
    DriftReading,
    Floors,
    ModelIdentity,
    Replay,
    ReplayedMessage,
    Rollout,
)


def check_same_model(engine: Engine, axis: AssistantAxis) -> None:
    """Raise ModelMismatchError when an axis was made on another model than the engine runs."""
    problem = axis.identity.mismatch(engine.identity)
    if problem is not None:
        raise ModelMismatchError(
            f"the run's axis belongs to another model: {problem}; use the model that it was made "
            "on, or extract an axis of this one to another folder"
        )


def calibrate(
    engine: Engine,
    folder: RunFolder,
    settings: CalibrateSettings = CalibrateSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Calibration:
    """Projections -> floors with their firing rates and prices, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    calibration = calibrate_floors(
        engine,
        run.axis,
        default=(r for r in run.rollouts() if r.prompt.is_default),
        roles=(r for r in run.rollouts() if r.prompt.is_role),
        traits=(r for r in run.rollouts() if r.prompt.side is not None),
        settings=settings,
        on_progress=lambda done, total: on_progress("pricing floors", done, total),
    )
    folder.save_calibration(calibration)
    return calibration


def floors_of(run: Run, setting: str | None) -> Floors | None:
    """The named setting, the default one, or None where the run has no floors."""
    if setting is not None:
        return run.floors_named(setting)
    return run.floors if run.has_floors else None


def drift_layer(axis: AssistantAxis, floors: Floors | None) -> int:
    """The layer at which drift is read: the recommended one, or the capped layer nearest to it."""
    if floors is None:
        return axis.layer
    return min(floors.layers, key=lambda layer: (abs(layer - axis.layer), layer))


def check_drift(
    run: Run,
    conversations: Sequence[Conversation],
    settings: DriftSettings,
    *,
    is_replayed: bool = False,
) -> None:
    """Raise, before a model is loaded, where the run or the conversations lack what drift needs.

    UsageError for a setting, a layer or a conversation that cannot be read, MissingArtifactError
    for a replay without floors.
    """
    Gauge(run.axis, _layer(run, settings), false_alarms=settings.false_alarms)
    if is_replayed:
        _floors_to_cap_with(run, settings)
        check_questions(conversations)
        names = Occurrences(conversation.id for conversation in conversations)
        twice = next((name for name, count in names.items() if count > 1), None)
        if twice is not None:
            raise UsageError(
                f"two conversations are called {twice!r}, and a replay is kept under its name; "
                "rename one file or conversation_id"
            )
    else:
        check_answered(conversations)


def _layer(run: Run, settings: DriftSettings) -> int:
    if settings.layer is not None:
        return settings.layer
    return drift_layer(run.axis, floors_of(run, settings.setting))


def _floors_to_cap_with(run: Run, settings: DriftSettings) -> Floors:
    floors = floors_of(run, settings.setting)
    if floors is None:
        raise MissingArtifactError(f"{run.path} has no floors to cap with; {run.floors_remedy}")
    return floors


def drift(
    engine: Engine,
    folder: RunFolder,
    conversations: Sequence[Conversation],
    settings: DriftSettings = DriftSettings(),
    *,
    on_progress: OnProgress = silent,
) -> list[DriftReading]:
    """The path of each conversation along the axis, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, settings.setting)
    layer = _layer(run, settings)
    readings = []
    chosen: list[Callable[..., Iterator[DriftReading]]] = []
    if settings.spans != "thinking":
        # Thinking is not marked: what is known to be usual is of answers.
        marking = partial(
            read_drift,
            default_answers=run.default_answers,
            levels=run.turn_levels(layer),
            false_alarms=settings.false_alarms,
            is_alone_read=settings.words_alone,
        )
        chosen.append(marking)
    if settings.spans != "answer":
        chosen.append(read_thinking)
    for read in chosen:
        for reading in read(engine, conversations, run.axis, layer=layer, floors=floors):
            folder.save_drift(reading)
            readings.append(reading)
            on_progress("reading conversations", len(readings), len(chosen) * len(conversations))
    return readings


def replay_conversation(
    engine: Engine,
    folder: RunFolder,
    conversation: Conversation,
    settings: DriftSettings = DriftSettings(),
    *,
    on_progress: OnProgress = silent,
) -> Replay:
    """The conversation's user turns answered anew, uncapped and capped, kept in the run.

    Interrupted, it goes on behind the last turn that both arms answered, to the same result; done
    again with the same settings, nothing is answered again. Without a temperature all draws would
    be the same, so there is one.
    """
    if settings.sampling.temperature == 0:
        settings = replace(settings, draws=1)
    with folder.lock():
        run = folder.read()
        check_same_model(engine, run.axis)
        floors, layer = _floors_to_cap_with(run, settings), _layer(run, settings)
        work = JournalFolder.of_replays(folder.path)
        name = _replay_name(engine, run, floors, layer, conversation, settings)
        # Weights that have no fingerprint may have changed since.
        is_known = bool(engine.identity.weights_hash)
        kept = work.values(name, ReplayedMessage) if is_known else []
        total = sum(m.speaker == "user" for m in conversation.messages)
        counter = Counter("answering, uncapped and capped", total, on_progress)
        counter.reach(len(kept))

        def keep(said: ReplayedMessage) -> None:
            if is_known:
                work.append(name, [said])
            counter.add(1)

        replayed = replay(
            engine,
            conversation,
            run.axis,
            floors=floors,
            sampling=settings.sampling,
            seed=settings.seed,
            draws=settings.draws,
            layer=layer,
            default_answers=run.default_answers,
            levels=run.turn_levels(layer),
            false_alarms=settings.false_alarms,
            answered=kept,
            on_answered=keep,
        )
        folder.save_drift(replayed)
        return replayed


def _replay_name(
    engine: Engine,
    run: Run,
    floors: Floors,
    layer: int,
    conversation: Conversation,
    settings: DriftSettings,
) -> str:
    """What the answers of a replay are kept under: a hash of all that decides them."""
    said = [(m.speaker, m.content) for m in conversation.messages if m.speaker != "assistant"]
    deciding = (
        engine.identity,
        run.manifest.files.get("axis.safetensors", ""),
        Arm("capped", interventions=tuple(floors)).fingerprint,
        layer,
        settings.sampling.settings,
        settings.seed,
        settings.draws,
        said,
    )
    return text_hash(repr(deciding), 24)


def arms_of(
    engine: Engine,
    run: Run,
    specs: Sequence[ArmSpec],
    *,
    axis: AssistantAxis | None = None,
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> tuple[Arm, ...]:
    """The arms of these specs, made of the run's axis, floors and vectors.

    The same seed draws the same controls.

    `axis` is the run's own where none is given; one that was transferred to another model may be.
    """
    axis = run.axis if axis is None else axis
    check_same_model(engine, axis)
    sources = ArmSources(
        axis=axis,
        floors=floors_of(run, None),
        floors_named=run.floors_named,
        role_vectors=lambda: run.persona_map.vectors,
        answers=lambda: [*calibration_answers(run), *calibration_answers(run, of_roles=True)],
        run=str(run.path),
    )
    return make_arms(
        specs,
        sources,
        engine,
        seed=seed,
        on_progress=lambda done, total: on_progress("matching controls", done, total),
    )


def calibration_answers(run: Run, *, of_roles: bool = False) -> list[Rollout]:
    """The default's answers, or the roles', that calibration reads, in the order of its draw."""
    of_kind = (
        rollout
        for rollout in run.rollouts()
        if (rollout.prompt.is_role if of_roles else rollout.prompt.is_default)
    )
    return choose_rollouts(of_kind, *calibration_sample(run))


def calibration_pool(run: Run) -> tuple[Rollout, ...] | None:
    """The answers of which calibration takes percentiles; None: of the default's and the roles'."""
    if not run.has_calibration or run.calibration.pool == "balanced":
        return None
    answers, seed = calibration_sample(run)
    settings = CalibrateSettings(rollouts=answers, seed=seed, pool=run.calibration.pool)
    return choose_calibration(
        (r for r in run.rollouts() if r.prompt.is_default),
        (r for r in run.rollouts() if r.prompt.is_role),
        (r for r in run.rollouts() if r.prompt.side is not None),
        settings,
    ).pool


def calibration_sample(run: Run) -> tuple[int, int]:
    """How many answers of each kind calibration reads, and the seed that draws them."""
    if run.has_calibration:
        return run.calibration.answers, run.calibration.seed
    defaults = CalibrateSettings()
    return defaults.rollouts, defaults.seed


@dataclass(frozen=True)
class TransferredAxis:
    """An axis used on another model than its own, such as a base model and its fine-tune."""

    axis: AssistantAxis
    facts: dict[str, str]
    """Which model answers, and on which the axis was made."""
    warning: str


def transfer_axis(axis: AssistantAxis, engine: Engine) -> TransferredAxis:
    """The axis with the identity of the engine's model, its vectors unchanged.

    Raises ModelMismatchError where the two models have other shapes: then it means nothing.
    """
    own, other = axis.identity, engine.identity
    if (own.layers, own.hidden_size) != (other.layers, other.hidden_size):
        shapes = [f"{model.layers} layers × {model.hidden_size}" for model in (own, other)]
        raise ModelMismatchError(
            f"the axis of {own.model_id} ({shapes[0]}) cannot be transferred to {other.model_id} "
            f"({shapes[1]}); expected as many layers of the same size, such as the base model "
            "that it was trained from"
        )
    return TransferredAxis(
        replace(axis, identity=other),
        {"answers by": _name_and_weights(other), "axis found on": _name_and_weights(own)},
        f"the axis, its norms and its floors were found on {own.model_id}, and are used on "
        f"{other.model_id} as they are: strengths, places and floors are in the former's units",
    )


def _name_and_weights(identity: ModelIdentity) -> str:
    weights = f", weights {identity.weights_hash[:12]}" if identity.weights_hash else ""
    return f"{identity.model_id}{weights}"
