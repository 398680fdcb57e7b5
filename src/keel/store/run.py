"""Reads a run folder: each part on first use, checked against the manifest's hashes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from keel.alarm import Alarm
from keel.arrays import Framework
from keel.errors import CorruptArtifactError, MissingArtifactError, StaleArtifactError, UsageError
from keel.store import layout
from keel.store.alarms import read_alarm
from keel.store.artefacts import check_format, read_axis, read_traits, read_value, read_vectors
from keel.store.batches import read_activation_batches, read_journal, read_rollouts
from keel.store.files import read_json, reading, sha256_of
from keel.store.floors import FloorsFile, read_floors
from keel.store.provenance import Manifest, RunPlan, read_manifest, read_plan
from keel.store.records import from_record
from keel.types import (
    NEUTRAL_DOMAIN,
    ActivationBatch,
    AssistantAxis,
    AxisFolds,
    Calibration,
    DefaultAnswers,
    DriftReading,
    DriftStudy,
    EvalResult,
    Floors,
    Judgement,
    LayerQuality,
    ModelIdentity,
    PersonaMap,
    PersonaSpace,
    PricedSetting,
    Replay,
    Rollout,
    Sweep,
    TraitMap,
    TurnLevels,
    UntrainedNull,
    system_hash,
)

T = TypeVar("T")


def open_run(path: str | Path, framework: Framework = "pt") -> Run:
    """A finished run, its tensors torch's or, to show them, numpy's.

    Raises MissingArtifactError, with what to type, if it is not finished.
    """
    run = Run(path, framework)
    _ = run.manifest
    return run


def find_runs(folder: str | Path) -> list[Path]:
    """Runs in a folder and in those within it, sorted; of a run's own folder that alone.

    Raises MissingArtifactError where there is no such folder.
    """
    folder = Path(folder)
    if folder.is_file():
        raise MissingArtifactError(f"{folder} is a file, expected a folder that holds runs")
    if not folder.is_dir():
        raise MissingArtifactError(f"there is no folder {folder}; give one that holds runs")
    with reading(folder, "a folder of runs"):
        if (folder / layout.PLAN).exists():
            return [folder]
        near = {path.parent for path in folder.glob(f"*/{layout.PLAN}")}
        below = {path.parent for path in folder.glob(f"*/*/{layout.PLAN}")}
        return sorted(near | {path for path in below if path.parent not in near})


class Run:
    """The contents of a run folder, each part read on first use."""

    def __init__(self, path: str | Path, framework: Framework = "pt") -> None:
        self.path = Path(path)
        self._framework = framework

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def manifest(self) -> Manifest:
        """What the run was made from, and the hashes of its files."""
        return read_manifest(self.path)

    @cached_property
    def plan(self) -> RunPlan:
        """What the run set out to do; also of an unfinished run."""
        return read_plan(self.path / layout.PLAN).plan

    @property
    def identity(self) -> ModelIdentity:
        """The model that the run was made on."""
        return self.manifest.identity

    @property
    def has_map(self) -> bool:
        """Whether the run has roles' answers, and so a map with its axis."""
        return layout.MAP in self.manifest.files

    @property
    def has_axis(self) -> bool:
        """Whether the run has an axis, its own or one from elsewhere."""
        return layout.AXIS in self.manifest.files

    @property
    def has_floors(self) -> bool:
        """Whether the run can cap: calibrated, or made of an axis from elsewhere with floors."""
        return layout.FLOORS in self.manifest.files

    @property
    def floors_remedy(self) -> str:
        """How to get floors, in words and with the command."""
        if self.manifest.kind == layout.BORROWED:
            return f"give some with --floors FILE, or {self.own_remedy}"
        return f"make them: keel calibrate {self.path}"

    @property
    def own_remedy(self) -> str:
        """How to get a run of the same model that lacks nothing, in words and with the command."""
        commands = f"keel extract {self.identity.model_id} -o runs/mine && keel calibrate runs/mine"
        return f"make a run of your own: {commands}"

    @property
    def has_traits(self) -> bool:
        """Whether the run has traits' answers, encouraged and discouraged."""
        return layout.TRAITS in self.manifest.files

    @property
    def has_calibration(self) -> bool:
        """Whether the run was calibrated."""
        return all(name in self.manifest.files for name in layout.CALIBRATION_FILES)

    @property
    def has_sweep(self) -> bool:
        """Whether settings were swept."""
        return layout.SWEEP in self.manifest.files

    @cached_property
    def axis(self) -> AssistantAxis:
        """The Assistant Axis, with the recommended layer."""
        return read_axis(self._checked(layout.AXIS), self._framework)

    @cached_property
    def persona_map(self) -> PersonaMap:
        """Vectors, persona space, axis and their quality."""
        vectors, default_LD = read_vectors(self._checked(layout.VECTORS), self._framework)
        space = read_value(PersonaSpace, self._checked(layout.SPACE), "space", self._framework)
        path = self._checked(layout.MAP)
        parts = {"vectors": vectors, "default_LD": default_LD, "axis": self.axis, "space": space}
        parts["default_answers"] = self.default_answers
        if layout.AXIS_FOLDS in self.manifest.files:
            folds = self._checked(layout.AXIS_FOLDS)
            parts["axis_folds"] = read_value(AxisFolds, folds, "axis folds", self._framework)
        with reading(path, "a map"):
            return from_record(PersonaMap, read_json(path), parts)

    @property
    def quality(self) -> tuple[LayerQuality, ...]:
        """How well each layer's axis separates the default from the roles; loads no vectors."""
        path = self._checked(layout.MAP)
        with reading(path, "a map"):
            return tuple(from_record(LayerQuality, each) for each in read_json(path)["quality"])

    @cached_property
    def default_answers(self) -> DefaultAnswers | None:
        """What a turn is judged against; None in runs that were mapped before it was kept."""
        if layout.DEFAULTS not in self.manifest.files:
            return None
        return read_value(
            DefaultAnswers, self._checked(layout.DEFAULTS), "defaults", self._framework
        )

    @cached_property
    def trait_map(self) -> TraitMap:
        """Trait vectors and the space they span. Raises MissingArtifactError in a run of roles."""
        return read_traits(self._checked(layout.TRAITS), self._framework)

    @cached_property
    def floors_file(self) -> FloorsFile:
        """Every setting that has floors, and which is the default."""
        path = self._checked(layout.FLOORS)
        file = read_floors(path, self._framework)
        self._check_axis(file.axis_sha256, path)
        return file

    @property
    def floors(self) -> Floors:
        """The setting that calibration chose."""
        return self.floors_file.named(None)

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of all settings that have floors."""
        return self.floors_file.names

    def floors_named(self, name: str) -> Floors:
        """The setting of that name. Raises UsageError, with names like it, when there is none."""
        return self.floors_file.named(name)

    @cached_property
    def calibration(self) -> Calibration:
        """Distributions of projections, and every setting with its price."""
        path = self._checked(layout.CALIBRATION)
        record = read_json(path)
        with reading(path, "a calibration"):
            settings = []
            for setting in record.pop("settings"):
                floors = self.floors_file.named(setting.pop("floors"))
                settings.append(from_record(PricedSetting, setting, {"floors": floors}))
            return from_record(Calibration, record, {"settings": tuple(settings)})

    @property
    def has_alarm(self) -> bool:
        """Whether the run has an alarm for drift."""
        return layout.ALARM in self.manifest.files

    @property
    def alarm_sha256(self) -> str:
        """Hash of the alarm's file. Raises MissingArtifactError without an alarm."""
        return sha256_of(self._checked(layout.ALARM))

    @property
    def alarm(self) -> Alarm:
        """The alarm for drift. Raises MissingArtifactError, with what to type, without it."""
        path = self._checked(layout.ALARM)
        alarm, axis_sha256 = read_alarm(path)
        self._check_axis(axis_sha256, path)
        return alarm

    @property
    def cut_share(self) -> float | None:
        """Share (0 to 1) of the answers cut at the token limit; None where none was counted."""
        counts = self.manifest.counts
        cut, answers = counts.get("cut at the token limit"), counts.get("rollouts")
        return None if cut is None or not answers else cut / answers

    @property
    def untrained(self) -> UntrainedNull | None:
        """What random models of this shape reach; None where that was not measured."""
        if layout.UNTRAINED not in self.manifest.files:
            return None
        path = self._checked(layout.UNTRAINED)
        record = read_json(path)
        with reading(path, "an UntrainedNull"):
            check_format(record, path)
            return from_record(UntrainedNull, record["value"])

    @property
    def sweep(self) -> Sweep:
        """The result of a sweep over settings."""
        return self._value(layout.SWEEP, Sweep)

    def rollouts(self) -> Iterator[Rollout]:
        """Every rollout, in the order of batches; of an unfinished run those so far."""
        return read_rollouts(self.path)

    def activation_batches(self, *, sample_will_do: bool = False) -> Iterator[ActivationBatch]:
        """Response means, batch by batch, in float32; of an unfinished run those so far.

        Raises MissingArtifactError when the run was thinned, unless a sample of it will do.
        """
        is_finished = (self.path / layout.MANIFEST).exists()
        left = self.manifest.activations if is_finished else "means"
        if left == "none" or (left == "sample" and not sample_will_do):
            raise MissingArtifactError(
                f"of the activations in {self.path} {left} was kept; extract again to another "
                "folder, keeping the means"
            )
        return read_activation_batches(self.path, are_whole=left == "means")

    def judgements(self, judge: str | None = None) -> dict[str, Judgement]:
        """Judgements by rollout id: of the judge named, else of the only one; may be empty.

        Raises UsageError when several judges are there and none was named.
        """
        if judge is not None:
            files = [self.path / layout.named_file(layout.JUDGEMENTS, judge)]
        else:
            files = layout.files_ending(self.path / layout.JUDGEMENTS, ".jsonl")
        if len(files) > 1:
            names = ", ".join(file.stem for file in files)
            raise UsageError(f"{self.path} has {len(files)} judges ({names}); name one")
        # Of one rollout the last judgement holds.
        values = (value for file in files for value in read_journal(file, Judgement))
        return {judgement.rollout_id: judgement for judgement in values}

    def drift_readings(self) -> tuple[DriftReading, ...]:
        """Drift readings of conversations, in the order of their files."""
        return tuple(self._values(f"{layout.DRIFT}/[^/]+", DriftReading).values())

    def replays(self) -> tuple[Replay, ...]:
        """Replayed conversations, in the order of their files."""
        return tuple(self._values(f"{layout.REPLAYS}/[^/]+", Replay).values())

    def evaluations(self) -> dict[str, EvalResult]:
        """Results of finished evaluations, by name."""
        results = self._values(f"{layout.EVALUATIONS}/[^/]+/{layout.RESULT}", EvalResult)
        return {name.split("/")[1]: result for name, result in results.items()}

    def studies(self) -> dict[str, DriftStudy]:
        """Results of finished drift studies, by name."""
        results = self._values(f"{layout.STUDIES}/[^/]+/{layout.RESULT}", DriftStudy)
        return {name.split("/")[1]: result for name, result in results.items()}

    def turn_levels(self, layer: int) -> TurnLevels | None:
        """Levels of default conversations turn by turn at a layer; None where they are not known.

        Of the conversations that the alarm was calibrated on, else of a study's neutral ones.
        """
        calibrated = self.alarm.levels if self.has_alarm else ()
        for levels in calibrated:
            if levels.layer == layer:
                return levels
        known = (_neutral_levels(study) for study in self.studies().values())
        return next((each for each in known if each is not None and each.layer == layer), None)

    def _values(self, pattern: str, kind: type[T]) -> dict[str, T]:
        """Listed values by file, of the files whose names match a regular expression."""
        names = sorted(name for name in self.manifest.files if re.fullmatch(pattern, name))
        # One that somebody deleted is not missed: nothing is made of it but the report.
        return {name: self._value(name, kind) for name in names if (self.path / name).exists()}

    def _value(self, name: str, kind: type[T]) -> T:
        path = self._checked(name)
        record = read_json(path)
        with reading(path, f"a {kind.__name__}"):
            check_format(record, path)
            self._check_axis(record["axis"], path)
            return from_record(kind, record["value"])

    def _checked(self, name: str) -> Path:
        """A file that the manifest lists and whose hash is as the manifest says."""
        path = self.path / name
        expected = self.manifest.files.get(name)
        if expected is None:
            raise MissingArtifactError(
                f"{self.path} has no {name}; make it with: {self._command(name)}"
            )
        with reading(path, "a file"):
            actual = sha256_of(path)
        if actual != expected:
            raise CorruptArtifactError(
                f"{path} has SHA-256 {actual[:12]}…, the manifest says {expected[:12]}…; restore "
                f"it from a copy, or delete it and make it again with: {self._command(name)}"
            )
        return path

    def _check_axis(self, made_with: str, path: Path) -> None:
        """Refuse what was made with an axis that has since been replaced."""
        if made_with and made_with != self.manifest.files.get(layout.AXIS):
            name = path.relative_to(self.path).as_posix()
            delete = "" if name == layout.FLOORS else f", or delete {path}"
            raise StaleArtifactError(
                f"{path} was made with another axis than {self.path} has now; run again: "
                f"{self._command(name)}{delete}"
            )

    def _command(self, name: str) -> str:
        """The command that makes a file of the run."""
        folder, _, rest = name.partition("/")
        match folder:
            case layout.TRAITS:
                return f"keel extract {self.identity.model_id} -o ANOTHER_RUN --what both"
            case layout.FLOORS | layout.CALIBRATION if self.manifest.kind != layout.BORROWED:
                return f"keel calibrate {self.path}"
            case layout.ALARM:
                return f"keel drift calibrate {self.path} --chats LOGS"
            case layout.UNTRAINED:
                return f"keel extract {self.identity.model_id} -o {self.path} --null untrained"
            case layout.SWEEP:
                return f"keel calibrate {self.path} --sweep"
            case layout.DRIFT | layout.REPLAYS:
                return f"keel drift {self.path}"
            case layout.EVALUATIONS:
                evaluation = rest.partition("/")[0]
                return f"keel evaluate {self.path} SUITE --name {evaluation} --overwrite"
            case layout.STUDIES:
                study = rest.partition("/")[0]
                return f"keel drift study {self.path} --name {study} --overwrite"
        if self.has_traits and not self.has_map:
            return self._command(layout.TRAITS)
        return self.plan.resume_command(self.path)


def _neutral_levels(study: DriftStudy) -> TurnLevels | None:
    """Levels by turn of a study's neutral conversations without an intervention, if it has any."""
    from keel.statistics import LEVEL, Variance

    for path in study.paths:
        if (path.arm, path.domain, path.reading) == ("none", NEUTRAL_DOMAIN, "with history"):
            break
    else:
        return None
    # Each neutral conversation has a person of its own, so that intervals are over conversations.
    spreads = tuple(
        (level.high - level.low)
        / 2
        / Variance(0.0, max(1, count - 1)).quantile(LEVEL)
        * math.sqrt(count)
        for level, count in zip(path.levels, path.counts, strict=True)
    )
    if not spreads or not all(map(math.isfinite, spreads)):
        return None
    system = study.facts.get("system prompt", "none")
    return TurnLevels(
        study.layer,
        tuple(level.value for level in path.levels),
        spreads,
        path.counts,
        f"{path.counts[0]} neutral conversations of the study {study.name!r}",
        system_hash("" if system == "none" else system),
    )
