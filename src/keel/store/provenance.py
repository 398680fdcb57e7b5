"""What a run set out to do and what it was made from: its plan and its manifest.

The plan, also an evaluation's, is written before the first token, and compared on resuming. The
manifest is written last, so a run that has one is finished.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from keel.errors import MissingArtifactError, StaleArtifactError, UsageError
from keel.store.artefacts import FORMAT, check_format
from keel.store.files import read_json, reading, write_json
from keel.store.layout import MANIFEST, PLAN
from keel.store.records import canonical, from_record, to_record
from keel.types import ModelIdentity, Prompt

Kept = Literal["means", "sample", "none"]

_DEMO = Path("runs/demo")
"""Where `keel demo` puts the recorded run, and where `keel ui` looks by itself."""
_DECIDING_FACTS = ("clock", "thinking")
"""Facts of the chat template that its source does not fix, and that answers depend on."""


@dataclass(frozen=True)
class RunPlan:
    """What a run will do: settings, seed, model and batches."""

    identity: ModelIdentity
    settings: dict[str, Any]
    """Settings as used, plain values: what decides the outcome, and nothing else."""
    seed: int
    batches: tuple[tuple[int, ...], ...]
    """Which prompts each batch holds, as indices in the list of prompts."""
    template: dict[str, str] = field(default_factory=dict)
    """What the chat template adds by itself: a system prompt, a date."""
    command: str = ""
    """What to type to go on after an interruption."""

    def resume_command(self, root: Path) -> str:
        """The command that goes on with the run."""
        return self.command or f"keel extract {self.identity.model_id} -o {root}"


@dataclass(frozen=True)
class EvaluationPlan:
    """Model, settings and batches of one evaluation, the same for all its arms."""

    identity: ModelIdentity
    settings: dict[str, Any]
    """Suite, sampling and whatever else decides the answers; plain values."""
    seed: int
    batches: tuple[tuple[int, ...], ...]
    """Which items each batch holds, as indices in the list of items."""
    first: tuple[tuple[int, ...], ...] = ()
    """The same for first turns, as indices in the list of conversations that items begin with."""
    command: str = ""
    """What to type to go on after an interruption."""


@dataclass(frozen=True)
class WrittenPlan:
    """A plan as it stands in a run folder."""

    plan: RunPlan
    prompts_count: int
    prompts_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a finished run was made from, and what it holds."""

    format: int
    kind: str
    keel_version: str
    created: str
    """ISO 8601, UTC."""
    identity: ModelIdentity
    settings: dict[str, Any]
    seed: int
    template: dict[str, str]
    """What the chat template adds by itself: a system prompt, a date."""
    counts: dict[str, int]
    """How much was kept and dropped, each under its name."""
    files: dict[str, str]
    """File inside the run folder -> SHA-256."""
    activations: Kept = "means"
    """What is left of the response means: all, a sample, or none."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Anything else that the pipeline records."""


def write_plan(path: Path, plan: RunPlan, prompts: Sequence[Prompt]) -> None:
    """Write the plan, with a hash of its prompts. Raises UsageError if its batches do not fit."""
    if sorted(index for batch in plan.batches for index in batch) != list(range(len(prompts))):
        raise UsageError(
            f"batches do not hold each of the {len(prompts)} prompts once; plan them from these "
            "prompts"
        )
    written = WrittenPlan(plan, len(prompts), prompts_hash(prompts))
    write_json(path, {"format": FORMAT, "kind": "plan", **to_record(written)})


def read_plan(path: Path) -> WrittenPlan:
    """The plan that `write_plan` wrote."""
    record = read_json(path)
    with reading(path, "the plan of a run"):
        check_format(record, path)
        if record.pop("kind") != "plan":
            raise ValueError("it is not of kind plan")
        del record["format"]
        return from_record(WrittenPlan, record)


def prompts_hash(prompts: Sequence[Prompt]) -> str:
    """SHA-256 of all that the prompts hold, in their order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(canonical(prompt).encode() + b"\n")
    return digest.hexdigest()


def check_same(written: WrittenPlan, plan: RunPlan, prompts: Sequence[Prompt], root: Path) -> None:
    """Raise StaleArtifactError, saying what differs, when a run was begun with other inputs.

    Batches are not compared: how many rollouts fit in memory may differ on resuming, and the
    plan that was written first holds.
    """
    differences = plan_differences(written.plan, plan)
    if not (root / MANIFEST).exists():  # a finished run is not answered any further
        old, new = (
            {f"template.{name}": made.template.get(name, "unset") for name in _DECIDING_FACTS}
            for made in (written.plan, plan)
        )
        differences += _changes(old, new)
    if written.prompts_sha256 != prompts_hash(prompts):
        differences.append(f"prompts ({written.prompts_count} → {len(prompts)}, or other words)")
    refuse_changed(
        str(root), differences, "choose another folder with -o, or start it over with --overwrite"
    )


def refuse_changed(what: str, differences: Sequence[str], remedy: str) -> None:
    """Raise StaleArtifactError with the first four differences, where there are any."""
    if differences:
        more = f"; and {len(differences) - 4} more" if len(differences) > 4 else ""
        raise StaleArtifactError(
            f"{what} was begun with other inputs: {'; '.join(differences[:4])}{more}; {remedy}"
        )


def plan_differences(old: RunPlan | EvaluationPlan, new: RunPlan | EvaluationPlan) -> list[str]:
    """How settings, seed and model differ, e.g. `sampling.temperature 0.7 → 1.0`."""
    settings = [
        dict(_leaves(to_record({**plan.settings, "seed": plan.seed}))) for plan in (old, new)
    ]
    mismatch = old.identity.mismatch(new.identity)
    names = ["dtype"]
    if not mismatch and not (old.identity.weights_hash and new.identity.weights_hash):
        # Without a hash of the weights, the name is all there is to tell models apart.
        names = ["model_id", "revision", "dtype"]
    model = [
        {name: getattr(plan.identity, name) or "unset" for name in names} for plan in (old, new)
    ]
    return [*_changes(*settings), *([f"model: {mismatch}"] if mismatch else []), *_changes(*model)]


def read_manifest(root: Path) -> Manifest:
    """The manifest of a finished run.

    Raises MissingArtifactError with the command to type when the run is not there or not finished.
    """
    path = root / MANIFEST
    with reading(path, "a manifest"):
        if not path.exists():
            if not (root / PLAN).exists():
                raise MissingArtifactError(_no_run(root))
            resume = read_plan(root / PLAN).plan.resume_command(root)
            raise MissingArtifactError(
                f"the run in {root} is not finished (it has no {MANIFEST}); go on with: {resume}"
            )
        return parse_manifest(path.read_bytes(), path)


def _no_run(root: Path) -> str:
    """What stands where a run was expected, and the command that works."""
    whole = next((above for above in root.parents if (above / PLAN).is_file()), None)
    if whole is not None:
        return f"{root} lies in a run, expected the run's own folder; give that: {whole}"
    if root.is_file():
        return f"{root} is a file, expected the folder of a run; keel ls lists those that are here"
    if (root / "config.json").exists():
        return (
            f"{root} is a model's folder, expected a run's; make a run of it: keel extract {root} "
            f"-o runs/{root.resolve().name}"
        )
    runs = _runs_in(root)
    if runs:
        return f"{root} is a folder of runs ({', '.join(runs)}); give one: {root / runs[0]}"
    beside = _runs_in(root.parent)
    near = difflib.get_close_matches(root.name, beside, n=1)
    hint = f"did you mean {root.parent / near[0]}? or " if near else ""
    is_name = len(root.parts) == 1 and not root.exists()
    model = f"; if it is a model: keel extract {root} -o runs/{root}" if is_name else ""
    demo = "; keel demo shows one that is recorded" if root == _DEMO else ""
    return f"{root} is no run folder; {hint}make one: keel extract MODEL -o {root}{model}{demo}"


def refuse_other_folder(folder: Path) -> None:
    """Raise UsageError where a new run would lie among other runs, or in a model's folder."""
    new = folder / "NAME"
    if runs := _runs_in(folder):
        raise UsageError(
            f"{folder} is a folder of runs ({', '.join(runs)}), expected a run's own; name one "
            f"in it: -o {new}"
        )
    if (folder / "config.json").exists():
        raise UsageError(
            f"{folder} is a model's folder, expected a run's own; name another one, such as -o "
            f"runs/{folder.resolve().name}"
        )


def _runs_in(folder: Path) -> list[str]:
    """Names of the runs that lie in a folder, begun ones, too."""
    try:
        return sorted({path.parent.name for path in folder.glob(f"*/{PLAN}")})
    except OSError:
        return []


def parse_manifest(data: bytes, path: Path, expected: str = "a manifest") -> Manifest:
    """The manifest in a file's bytes; `path` and what was `expected` are for the error."""
    with reading(path, expected):
        record = json.loads(data)
        check_format(record, path)
        return from_record(Manifest, record)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name, "unset"), new.get(name, "unset")
        if before != now:
            yield f"{name} {before} → {now}"


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
