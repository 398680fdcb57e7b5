"""The order of the stages: the only place that knows it.

Each function takes an engine and a run folder, runs a stage, and keeps what it found. All of them
can be interrupted and called again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from keel.calibrate import CalibrateSettings, calibrate_floors
from keel.drift import read_drift, replay
from keel.engines import Batch, Engine, spoken_name
from keel.errors import MissingArtifactError
from keel.judge import Judge, JudgementSummary, summarise
from keel.personas import MapSettings, map_personas
from keel.prompts import (
    Library,
    PromptSettings,
    load_library,
    make_prompts,
    role_kinds,
    settings_for,
)
from keel.report import ReportInputs, render_report
from keel.rollouts import answer_prompts
from keel.store import Run, RunFolder, RunPlan
from keel.types import (
    AssistantAxis,
    Calibration,
    Conversation,
    DriftReading,
    Floors,
    PersonaMap,
    Prompt,
    Replay,
    Rollout,
    Sampling,
)

Scale = Literal["smoke", "small", "paper"]
OnProgress = Callable[[str, int, int], None]


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class ExtractSettings:
    """How a persona map is extracted; `at_scale` sets everything from one dial."""

    prompts: PromptSettings
    sampling: Sampling
    mapping: MapSettings = field(default_factory=MapSettings)
    keep: Literal["means", "sample", "none"] = "means"
    """What stays of the activations when the map is made: all response means, a sample, none."""
    seed: int = 0
    """Decides every random draw."""

    @classmethod
    def at_scale(cls, scale: Scale, seed: int = 0) -> ExtractSettings:
        """`smoke`: a minute on a laptop; `small`: an hour; `paper`: Lu et al. 2026 in full."""
        new_tokens = {"smoke": 64, "small": 128, "paper": 512}[scale]
        min_count = {"smoke": 3, "small": 10, "paper": 10}[scale]
        return cls(
            prompts=replace(settings_for(scale), seed=seed),
            sampling=Sampling(max_new_tokens=new_tokens),
            mapping=MapSettings(min_count=min_count, seed=seed),
            seed=seed,
        )


@dataclass(frozen=True)
class ExtractInputs:
    """Whose characters, asked what."""

    library: Library = field(default_factory=load_library)
    source: str = "keel"
    """Where the prompts come from, for the run's records."""


def extract(
    engine: Engine,
    folder: RunFolder,
    settings: ExtractSettings,
    *,
    inputs: ExtractInputs | None = None,
    judge: Judge | None = None,
    command: str = "",
    on_progress: OnProgress = silent,
) -> PersonaMap:
    """Prompts -> rollouts with activations -> (judgements) -> vectors, persona space, axis.

    Goes on where an interrupted call with the same arguments stopped, to the same result.
    Raises StaleArtifactError when the folder was begun with others.
    """
    inputs = inputs or ExtractInputs()
    name = spoken_name(engine.identity.model_id)
    prompts = make_prompts(inputs.library, settings.prompts, model_name=name)
    with folder.lock():
        plan = folder.begin(_plan(engine, prompts, settings, inputs, command), prompts)
        if folder.is_finished and judge is None:
            return folder.read().persona_map
        _answer(engine, folder, plan, prompts, settings.sampling, on_progress)
        if judge is not None:
            _judge(folder, judge, len(prompts), on_progress)
        return _map(folder, prompts, settings, judge is not None, on_progress)


def judge(
    folder: RunFolder,
    judge: Judge,
    *,
    mapping: MapSettings | None,
    on_progress: OnProgress = silent,
) -> tuple[JudgementSummary, PersonaMap | None]:
    """Score the rollouts of a finished run; with `mapping`, map again with those labels."""
    run = folder.read()
    total = int(run.manifest.counts["rollouts"])
    with folder.lock():
        _judge(folder, judge, total, on_progress)
        summary = summarise(run.judgements(judge.name).values())
        if mapping is None:
            return summary, None
        prompts = [rollout.prompt for rollout in run.rollouts()]
        found = map_personas(
            prompts,
            run.activation_batches,
            identity=run.manifest.identity,
            judgements=run.judgements(judge.name),
            settings=mapping,
        )
        folder.save_map(found)
        return summary, found


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
    found = calibrate_floors(
        engine,
        run.axis,
        default=(r for r in run.rollouts() if r.prompt.is_default),
        roles=(r for r in run.rollouts() if not r.prompt.is_default),
        settings=settings,
        on_progress=lambda done, total: on_progress("pricing floors", done, total),
    )
    folder.save_calibration(found)
    return found


def drift(
    engine: Engine,
    folder: RunFolder,
    conversations: Sequence[Conversation],
    *,
    layer: int | None = None,
    setting: str | None = None,
    on_progress: OnProgress = silent,
) -> list[DriftReading]:
    """The path of each conversation along the axis, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, setting)
    found = []
    layer = drift_layer(run.axis, floors) if layer is None else layer
    for reading in read_drift(engine, conversations, run.axis, layer=layer, floors=floors):
        folder.save_drift(reading)
        found.append(reading)
        on_progress("reading conversations", len(found), len(conversations))
    return found


def replay_conversation(
    engine: Engine,
    folder: RunFolder,
    conversation: Conversation,
    *,
    sampling: Sampling,
    seed: int = 0,
    setting: str | None = None,
    layer: int | None = None,
    on_progress: OnProgress = silent,
) -> Replay:
    """The conversation's user turns answered anew, uncapped and capped, kept in the run."""
    run = folder.read()
    check_same_model(engine, run.axis)
    floors = floors_of(run, setting)
    if floors is None:
        raise MissingArtifactError(
            f"{folder.path} has no floors to cap with; make them: keel calibrate {folder.path}"
        )
    total = sum(m.speaker == "user" for m in conversation.messages)
    turns = iter(range(1, total + 1))
    found = replay(
        engine,
        conversation,
        run.axis,
        floors=floors,
        sampling=sampling,
        seed=seed,
        layer=drift_layer(run.axis, floors) if layer is None else layer,
        on_turn=lambda turn: on_progress("answering, uncapped and capped", next(turns), total),
    )
    folder.save_replay(found)
    return found


def report(folder: RunFolder, kinds: Mapping[str, str] | None = None) -> Path:
    """All that the run holds as one HTML page; returns where it is.

    `kinds` says of what kind each role is; by default those of Keel's own library.
    """
    return folder.write_report(render_report(report_inputs(folder.read(), kinds)))


def report_inputs(run: Run, kinds: Mapping[str, str] | None = None) -> ReportInputs:
    """All that a run holds, gathered for the report."""
    samples: dict[str, str] = {}
    for rollout in run.rollouts():
        samples.setdefault(rollout.prompt.role, rollout.text)
    return ReportInputs(
        title=run.path.name,
        identity=run.identity,
        persona_map=run.persona_map,
        calibration=run.calibration if run.has_calibration else None,
        drift=run.drift_readings(),
        replays=run.replays(),
        samples=samples,
        role_kinds=dict(role_kinds(load_library()) if kinds is None else kinds),
        facts=tuple(_facts(run)),
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    yield "date", manifest.created
    yield "model", manifest.identity.model_id
    yield "revision", manifest.identity.revision or "local files"
    yield "weights", manifest.identity.weights_hash[:16] or "unknown"
    yield "dtype", manifest.identity.dtype
    yield from ((f"chat template: {name}", value) for name, value in manifest.template.items())
    yield from ((name, str(value)) for name, value in _leaves(manifest.settings))
    yield from ((name, f"{count:,}") for name, count in manifest.counts.items())
    yield "Keel", manifest.keel_version


def _leaves(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{name} ")
        else:
            yield f"{before}{name}".replace("_", " "), value


def drift_layer(axis: AssistantAxis, floors: Floors | None) -> int:
    """Where drift is read: the recommended layer, or the capped layer nearest to it."""
    if floors is None:
        return axis.layer
    return min(floors.layers, key=lambda layer: (abs(layer - axis.layer), layer))


def floors_of(run: Run, setting: str | None) -> Floors | None:
    """The named setting, the default one, or None where the run was not calibrated."""
    if setting is not None:
        return run.floors_named(setting)
    return run.floors if run.has_calibration else None


def check_same_model(engine: Engine, axis: AssistantAxis) -> None:
    """Raise ModelMismatchError when an axis was made on another model than the engine runs."""
    from keel.errors import ModelMismatchError

    problem = axis.identity.mismatch(engine.identity)
    if problem is not None:
        raise ModelMismatchError(f"the run's axis belongs to another model: {problem}")


def _plan(
    engine: Engine,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    inputs: ExtractInputs,
    command: str,
) -> RunPlan:
    recorded: dict[str, Any] = {**asdict(settings), "prompts_from": inputs.source}
    recorded.pop("keep")
    recorded.pop("mapping")  # maps can be made again of the same rollouts
    return RunPlan(
        identity=engine.identity,
        settings=recorded,
        seed=settings.seed,
        batches=tuple(b.places for b in engine.plan(prompts, settings.sampling)),
        template=engine.template_facts(),
        command=command,
    )


def _answer(
    engine: Engine,
    folder: RunFolder,
    plan: RunPlan,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    on_progress: OnProgress,
) -> None:
    batches = [Batch(number, places) for number, places in enumerate(plan.batches)]
    done = folder.committed()
    counter = Counter("answering and recording", len(prompts), on_progress)
    counter.add(sum(len(b.places) for b in batches if b.number in done))
    for answered in answer_prompts(
        engine,
        prompts,
        batches,
        sampling,
        seed=plan.seed,
        done=done,
        on_rollout=lambda rollout: counter.add(1),
    ):
        folder.commit_batch(answered.number, answered.rollouts, answered.activations)


def _judge(folder: RunFolder, judge: Judge, total: int, on_progress: OnProgress) -> None:
    """Judge what was not judged yet, some hundred rollouts at a time."""
    run = folder.read()
    known = set(run.judgements(judge.name))
    counter = Counter("judging", total, on_progress)
    counter.add(len(known))
    for group in _in_groups((r for r in run.rollouts() if r.prompt.id not in known), 256):
        found = list(judge.judge(group))
        folder.save_judgements(judge.name, found)
        counter.add(len(found))


def _map(
    folder: RunFolder,
    prompts: Sequence[Prompt],
    settings: ExtractSettings,
    is_judged: bool,
    on_progress: OnProgress,
) -> PersonaMap:
    run = folder.read()
    on_progress("mapping persona space", 0, 1)
    found = map_personas(
        prompts,
        run.activation_batches,
        identity=run.plan.identity,
        judgements=run.judgements() if is_judged else None,
        settings=settings.mapping,
    )
    folder.save_map(found)
    folder.finish(counts=_counts(run.rollouts(), found))
    folder.thin(settings.keep)
    on_progress("mapping persona space", 1, 1)
    return found


def _counts(rollouts: Iterable[Rollout], found: PersonaMap) -> Mapping[str, int]:
    answers = tokens = empty = 0
    for rollout in rollouts:
        answers += 1
        tokens += len(rollout.token_ids)
        empty += not rollout.token_ids
    return {
        "rollouts": answers,
        "tokens": tokens,
        "empty answers": empty,
        "roles kept": len(found.vectors),
        "roles dropped": len(found.dropped),
    }


class Counter:
    """Counts towards a total and tells whoever watches."""

    def __init__(self, stage: str, total: int, on_progress: OnProgress) -> None:
        self.stage, self.total, self.on_progress, self.done = stage, total, on_progress, 0

    def add(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        self.on_progress(self.stage, self.done, self.total)


def _in_groups(rollouts: Iterator[Rollout], size: int) -> Iterator[list[Rollout]]:
    for first in rollouts:
        rest = (r for _, r in zip(range(size - 1), rollouts, strict=False))
        yield list(chain([first], rest))


@dataclass(frozen=True)
class Tour:
    """What the demo found, stage by stage."""

    found: PersonaMap
    calibration: Calibration
    replay: Replay
    report: Path


def tour(
    engine: Engine,
    folder: RunFolder,
    *,
    seed: int = 0,
    command: str = "",
    on_progress: OnProgress = silent,
) -> Tour:
    """The whole of Keel once, at the smallest scale: map, floor, a provoking talk, the report."""
    settings = ExtractSettings.at_scale("smoke", seed)
    found = extract(engine, folder, settings, command=command, on_progress=on_progress)
    floor_settings = CalibrateSettings(rollouts=60, priced_rollouts=10, seed=seed)
    calibration = calibrate(engine, folder, floor_settings, on_progress=on_progress)
    scenario = load_scenarios()[0]
    replayed = replay_conversation(
        engine,
        folder,
        scenario.conversation,
        sampling=Sampling(max_new_tokens=80, temperature=0.0),
        seed=seed,
        on_progress=on_progress,
    )
    return Tour(found, calibration, replayed, report(folder))


def price(engine: Engine, settings: ExtractSettings, inputs: ExtractInputs) -> dict[str, Any]:
    """What an extraction would take, at the most: answers, tokens, disk. Nothing is generated."""
    name = spoken_name(engine.identity.model_id)
    prompts = make_prompts(inputs.library, settings.prompts, model_name=name)
    batches = engine.plan(prompts, settings.sampling)
    mean_bytes = engine.layers * (engine.identity.hidden_size * 2 + 4)
    return {
        "roles": len({p.role for p in prompts if not p.is_default}),
        "answers": len(prompts),
        "new tokens, at most": len(prompts) * settings.sampling.max_new_tokens,
        "batches": len(batches),
        "disk for activations, bytes": len(prompts) * mean_bytes,
    }
