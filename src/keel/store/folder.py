"""Writes a run folder: begins it, commits batches, finishes it, adds what is made later."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from keel.alarm import Alarm
from keel.arrays import Tensor
from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    RunLockedError,
    StaleArtifactError,
)
from keel.store import layout
from keel.store.alarms import write_alarm
from keel.store.artefacts import FORMAT, save_axis, save_traits, save_value, save_vectors
from keel.store.batches import (
    append_journal,
    commit_batch,
    committed_batches,
    read_journal,
    thin_activations,
)
from keel.store.files import (
    append_lines,
    jsonl,
    read_tensors,
    refused,
    remove_leftovers,
    sha256_of,
    write_bytes,
    write_json,
    write_tensors,
)
from keel.store.floors import after_calibration, save_floors, with_swept
from keel.store.provenance import (
    Kept,
    Manifest,
    RunPlan,
    check_same,
    read_manifest,
    read_plan,
    refuse_other_folder,
    write_plan,
)
from keel.store.records import to_record
from keel.store.run import Run
from keel.types import (
    ActivationBatch,
    Calibration,
    DriftReading,
    DriftStudy,
    EvalResult,
    Floors,
    Judgement,
    PersonaMap,
    Prompt,
    Replay,
    Rollout,
    Sweep,
    TraitMap,
    UntrainedNull,
)


class RunFolder:
    """Writes the files of a run.

    Hold `lock()` from `begin` to `finish`; what is added later takes the lock by itself.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock = FileLock(self.path / ".lock", thread_local=False)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Acquires the folder; raises RunLockedError immediately if another process holds it.

        The operating system frees it when its process ends, however. The same object can be locked
        again inside; another object of the same process cannot.
        """
        owner = self.path / ".lock-owner.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            holder = "not yet known"
            with suppress(OSError, ValueError, KeyError):
                facts = json.loads(owner.read_bytes())
                holder = f"pid {facts['pid']} on {facts['host']}, since {facts['since']}"
            raise RunLockedError(
                f"another process ({holder}) works on {self.path}; "
                "wait for it, or choose another folder"
            ) from None
        except OSError as error:
            raise refused(self.path / ".lock", 0, error) from error
        try:
            if self._lock.lock_counter == 1:
                remove_leftovers(self.path)
                since = datetime.now(UTC).isoformat(timespec="seconds")
                facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
                write_json(owner, facts)
            yield
        finally:
            if self._lock.lock_counter == 1:
                owner.unlink(missing_ok=True)
            self._lock.release()

    @property
    def is_begun(self) -> bool:
        """Whether the folder has a plan."""
        return (self.path / layout.PLAN).exists()

    @property
    def is_finished(self) -> bool:
        """Whether the manifest, written last, is there, and the map is as it says.

        False while the map is replaced, and where a part of it was deleted: make the map again.
        """
        if not self._has_manifest:
            return False
        listed = read_manifest(self.path).files
        return all((self.path / n).exists() == (n in listed) for n in layout.MAP_FILES)

    def begin(self, plan: RunPlan, prompts: Sequence[Prompt]) -> RunPlan:
        """Write the plan, or go on with the one that is there.

        Returns the plan that holds: on resuming, the batches that were planned first.
        Raises StaleArtifactError, saying what differs, when the folder was begun with other inputs.
        """
        path = self.path / layout.PLAN
        with self.lock():
            if not self.is_begun:
                write_plan(path, plan, prompts)
                return plan
            written = read_plan(path)
            check_same(written, plan, prompts, self.path)
            return written.plan

    def check_free(self) -> None:
        """Raise RunLockedError or StorageError where the folder could not be written to now.

        Leaves nothing behind where there is no folder yet.
        """
        if self.path.is_dir():
            if not (self.path / layout.PLAN).exists():
                refuse_other_folder(self.path)
            with self.lock():
                return
        above = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
        if not above.is_dir():
            raise refused(self.path, 0, NotADirectoryError(errno.ENOTDIR, "it is no folder"))
        if not os.access(above, os.W_OK | os.X_OK):
            raise refused(self.path, 0, PermissionError(errno.EACCES, "permission denied"))

    def check_begun(
        self, settings: Mapping[str, Any], seed: int, prompts: Sequence[Prompt]
    ) -> None:
        """Raise StaleArtifactError where the folder was begun with other settings or prompts.

        As `begin` does, but for the model and for the spans, which need one.
        """
        if not self.is_begun:
            return
        written = read_plan(self.path / layout.PLAN)
        kept = {name: value for name, value in written.plan.settings.items() if name == "spans"}
        plan = replace(written.plan, settings={**settings, **kept}, seed=seed)
        check_same(written, plan, prompts, self.path)

    def committed(self) -> set[int]:
        """Numbers of the batches that are done."""
        return set(committed_batches(self.path / layout.ROLLOUTS))

    def commit_batch(
        self, number: int, rollouts: Sequence[Rollout], activations: ActivationBatch | None
    ) -> None:
        """Keep one batch: whole, or not counted.

        Raises NotFiniteError naming a rollout whose activations hold NaN or Inf.
        """
        commit_batch(self.path, number, rollouts, activations)

    def read(self) -> Run:
        """Its reader; of an unfinished run it reads rollouts and judgements."""
        return Run(self.path)

    def save_judgements(self, judge: str, judgements: Iterable[Judgement]) -> None:
        """Add judgements of one judge; of one rollout the last one holds."""
        with self.lock():
            file = layout.named_file(layout.JUDGEMENTS, judge)
            self._relist(removed=[file])
            append_journal(self.path / file, judgements)

    def save_map(self, persona_map: PersonaMap | None, traits: TraitMap | None = None) -> None:
        """Keep vectors, persona space and axis, and trait space, in place of those before."""
        with self._replacing(*layout.MAP_FILES):
            if traits is not None:
                save_traits(traits, self.path / layout.TRAITS)
            if persona_map is None:
                return
            vectors, default_LD = persona_map.vectors, persona_map.default_LD
            save_vectors(vectors, default_LD, self.path / layout.VECTORS)
            save_value(persona_map.space, self.path / layout.SPACE, "space")
            save_axis(persona_map.axis, self.path / layout.AXIS)
            if persona_map.default_answers is not None:
                save_value(persona_map.default_answers, self.path / layout.DEFAULTS, "defaults")
            if persona_map.axis_folds is not None:
                save_value(persona_map.axis_folds, self.path / layout.AXIS_FOLDS, "axis folds")
            # What is no tensor, and has no file of its own.
            names = ("default_count", "dropped", "quality", "warnings", "standings")
            facts = {name: to_record(getattr(persona_map, name)) for name in names}
            write_json(self.path / layout.MAP, facts)

    def save_calibration(self, calibration: Calibration) -> None:
        """Keep distributions, and every setting's floors with the chosen one as default.

        Settings of a sweep stay beside them, and the sweep goes where they are no longer the same.
        """
        made = [setting.floors for setting in calibration.settings]
        bands = self._beside_swept(made)
        with self._replacing(*layout.CALIBRATION_FILES, *([] if bands else [layout.SWEEP])):
            if bands is None:
                (self.path / layout.SWEEP).unlink(missing_ok=True)
            save_floors(
                bands or made,
                self.path / layout.FLOORS,
                default=calibration.chosen,
                axis_sha256=self._axis_sha256(),
            )
            record = to_record(calibration)
            for setting in record["settings"]:
                setting["floors"] = setting["floors"]["name"]  # they have a file of their own
            write_json(self.path / layout.CALIBRATION, record)

    def save_sweep(self, sweep: Sweep, floors: Sequence[Floors], *, adopt: bool = False) -> None:
        """Keep a sweep's result, and its settings' floors beside those that are there.

        With `adopt` the recommended setting becomes the default, where there is one.
        """
        file = self.read().floors_file
        default = sweep.recommended if adopt and sweep.recommended else file.default
        bands = with_swept(file.settings, floors, sweep.recommended)
        axis = self._axis_sha256()
        with self._replacing(layout.FLOORS, layout.SWEEP):
            save_floors(bands, self.path / layout.FLOORS, default=default, axis_sha256=axis)
            self.write_value(layout.SWEEP, sweep)

    def save_alarm(self, alarm: Alarm) -> None:
        """Keep the alarm for drift, in place of an earlier one."""
        with self._replacing(layout.ALARM):
            write_alarm(alarm, self.path / layout.ALARM, axis_sha256=self._axis_sha256())

    def save_untrained(self, null: UntrainedNull) -> None:
        """Keep what random models reach, in place of what was kept before."""
        with self._replacing(layout.UNTRAINED):
            write_json(self.path / layout.UNTRAINED, {"format": FORMAT, "value": to_record(null)})

    def untrained_work(self, seed: int) -> RunFolder:
        """The folder in which the random model of this seed is extracted."""
        return RunFolder(self.path / layout.UNTRAINED_WORK / f"seed-{seed}")

    def clear_untrained_work(self) -> None:
        """Delete what random models answered; what they reached is kept."""
        shutil.rmtree(self.path / layout.UNTRAINED_WORK, ignore_errors=True)

    def save_drift(self, drift: DriftReading | Replay) -> None:
        """Keep one conversation's path, or its replay, in place of an earlier one of its id."""
        folder = layout.REPLAYS if isinstance(drift, Replay) else layout.DRIFT
        file = layout.named_file(folder, drift.conversation_id)
        with self._replacing(file):
            self.write_value(file, drift)

    def write_value(
        self, file: str, value: Sweep | DriftReading | Replay | EvalResult | DriftStudy
    ) -> None:
        """Write a value with the hash of the axis that it was made with; lists it nowhere."""
        record = {"format": FORMAT, "axis": self._axis_sha256(), "value": to_record(value)}
        write_json(self.path / file, record)

    def write_report(self, html: str) -> Path:
        """Keep the report's page; returns its path."""
        with self._replacing(layout.REPORT):
            write_bytes(self.path / layout.REPORT, html.encode())
        return self.path / layout.REPORT

    def write_case(self, name: str, html: str) -> Path:
        """Keep the page of one replayed conversation; returns its path."""
        file = layout.named_file(layout.CASES, name)
        with self._replacing(file):
            write_bytes(self.path / file, html.encode())
        return self.path / file

    def unlist_below(self, folder: str) -> None:
        """Take every file below a folder off the manifest, while they are worked on."""
        with self.lock():
            if self._has_manifest:
                listed = read_manifest(self.path).files
                self._relist(removed=[n for n in listed if n.startswith(f"{folder}/")])

    def list_below(self, folder: str) -> None:
        """Put every file below a folder on the manifest, as they are now."""
        with self.lock():
            self._relist(added=layout.files_below(self.path, folder))

    def finish(
        self,
        *,
        counts: Mapping[str, int],
        kind: str = "extract",
        notes: Mapping[str, Any] | None = None,
        now: datetime | None = None,
    ) -> Manifest:
        """Write the manifest, which makes the run finished: hashes of all files, what was used."""
        with self.lock():
            plan = read_plan(self.path / layout.PLAN).plan
            manifest = Manifest(
                format=FORMAT,
                kind=kind,
                keel_version=version("keel-llm"),
                created=(now or datetime.now(UTC)).isoformat(timespec="seconds"),
                identity=plan.identity,
                settings=plan.settings,
                seed=plan.seed,
                template=plan.template,
                counts=dict(counts),
                files=self._hashes(layout.artefacts(self.path)),
                activations=read_manifest(self.path).activations if self._has_manifest else "means",
                notes=dict(notes or {}),
            )
            self._write_manifest(manifest)
            return manifest

    def thin(self, keep: Kept) -> None:
        """Reduce what is kept of the activations, after the map was made of them.

        `means` keeps all, `sample` those of about 1000 rollouts spread over the run, `none` none.
        Rollouts' texts stay. What is gone comes back only by extracting again.
        """
        if keep == "means":
            return
        with self.lock():
            manifest, files = (
                read_manifest(self.path),
                layout.files_below(self.path, layout.ACTIVATIONS),
            )
            left = "none" if manifest.activations == "none" else keep
            others = {name: old for name, old in manifest.files.items() if name not in files}
            self._write_manifest(replace(manifest, files=others, activations=left))
            thin_activations(self.path, left)
            self._relist(added=files)

    def clear(self) -> None:
        """Delete every file of the run, and only those: for starting over.

        Does nothing in a folder that holds no run.
        """
        with self.lock():
            if not self.is_begun:
                return
            read_plan(self.path / layout.PLAN)  # proof that the folder is ours
            # The manifest first and the plan last: a kill in between leaves an unfinished run.
            (self.path / layout.MANIFEST).unlink(missing_ok=True)
            names = [n for n in layout.artefacts(self.path) if n != layout.PLAN]
            names += layout.files_below(self.path, layout.SWEEP_WORK)
            for name in [*names, layout.PLAN]:
                (self.path / name).unlink(missing_ok=True)
            self.clear_untrained_work()

    @property
    def _has_manifest(self) -> bool:
        return (self.path / layout.MANIFEST).exists()

    def _write_manifest(self, manifest: Manifest) -> None:
        write_json(self.path / layout.MANIFEST, to_record(manifest))

    def _beside_swept(self, made: Sequence[Floors]) -> Sequence[Floors] | None:
        """A calibration's settings with a sweep's; None where the sweep does not fit them."""
        run = self.read()
        if not (self._has_manifest and run.has_sweep):
            return made
        with suppress(CorruptArtifactError, StaleArtifactError, MissingArtifactError):
            return after_calibration(run.floors_file, made)
        return None  # floors that are damaged, or of another axis, are made anew by calibrating

    @contextmanager
    def _replacing(self, *names: str) -> Iterator[None]:
        """Unlists files that change together, so that a kill leaves no mixture of old and new."""
        with self.lock():
            before = self._relist(removed=names)
            try:
                yield
            except BaseException:
                # Listed again only where all is as it was: half a change stays unlisted.
                if self._hashes(before) == before:
                    self._relist(added=before)
                raise
            self._relist(added=names)

    def _relist(self, removed: Collection[str] = (), added: Iterable[str] = ()) -> dict[str, str]:
        """Take files off a finished run's manifest, then put files on, with their hashes now.

        Returns what it said of those removed.
        """
        if not self._has_manifest:
            return {}
        manifest = read_manifest(self.path)
        before = {name: old for name, old in manifest.files.items() if name in removed}
        left = {name: old for name, old in manifest.files.items() if name not in removed}
        files = dict(sorted({**left, **self._hashes(added)}.items()))
        if files != manifest.files:
            self._write_manifest(replace(manifest, files=files))
        return before

    def _hashes(self, names: Iterable[str]) -> dict[str, str]:
        present = [name for name in names if (self.path / name).is_file()]
        return {name: sha256_of(self.path / name) for name in present}

    def _axis_sha256(self) -> str:
        """Hash of the run's axis; empty where it has none yet."""
        return self._hashes([layout.AXIS]).get(layout.AXIS, "")


class SweepWork:
    """Working files of a run's sweeps. Hold the run's lock while writing.

    sweep/projections.safetensors   projections that floors are made from
          NAME.jsonl                numbers per setting, added to as they are measured

    None of it is listed by the manifest: it can be deleted at any time, and is then computed anew.
    """

    def __init__(self, run: RunFolder) -> None:
        self.path = run.path / layout.SWEEP_WORK
        self._projections = self.path / "projections.safetensors"

    def projections(self, key: str) -> dict[str, Tensor] | None:
        """Tensors that were kept under the key; None where there are none, or of another key."""
        if not self._projections.exists():
            return None
        tensors, metadata = read_tensors(self._projections)
        return tensors if metadata.get("key") == key else None

    def keep_projections(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a key, in place of those before."""
        write_tensors(self._projections, tensors, {"key": key})

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Rows that were kept under a name. A line torn by a kill is not counted."""
        return read_journal(self._rows_file(name), dict)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to those under a name."""
        append_lines(self._rows_file(name), jsonl(map(dict, rows)))

    def _rows_file(self, name: str) -> Path:
        return self.path / f"{layout.plain_name(name)}.jsonl"
