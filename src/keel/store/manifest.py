"""The manifest: written last, so a run that has one is finished."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from keel.errors import MissingArtifactError
from keel.store.artefacts import check_format
from keel.store.atomic import write_json
from keel.store.layout import MANIFEST, PLAN
from keel.store.plan import read_plan
from keel.store.reading import read_json, reading
from keel.store.records import from_record, to_record
from keel.types import ModelIdentity

Kept = Literal["means", "sample", "none"]


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
    """What the chat template does of its own accord."""
    counts: dict[str, int]
    """How much was kept and dropped, each under its name."""
    files: dict[str, str]
    """File inside the run folder -> SHA-256."""
    activations: Kept = "means"
    """What is left of the response means: all, a sample, or none."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Whatever else the pipeline wants to be known."""

    def without(self, names: Collection[str]) -> Manifest:
        """The manifest with some files no longer listed."""
        return replace(self, files={n: h for n, h in self.files.items() if n not in names})

    def listing(self, files: Mapping[str, str]) -> Manifest:
        """The manifest with these files listed too."""
        return replace(self, files=dict(sorted({**self.files, **files}.items())))


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Put the manifest in the run folder."""
    write_json(root / MANIFEST, to_record(manifest))


def read_manifest(root: Path) -> Manifest:
    """The manifest of a finished run.

    Raises MissingArtifactError with the command to type when the run is not there or not finished.
    """
    path = root / MANIFEST
    with reading(path, "a manifest"):
        if not path.exists():
            raise MissingArtifactError(_unfinished(root))
        record = read_json(path)
        check_format(record, path)
        return from_record(Manifest, record)


def manifest_from(data: bytes, where: str) -> Manifest:
    """The manifest in a file's bytes, read from somewhere that is no run folder."""
    path = Path(MANIFEST)
    with reading(path, f"a manifest, as found at {where}"):
        record = json.loads(data)
        check_format(record, path)
        return from_record(Manifest, record)


def _unfinished(root: Path) -> str:
    if not (root / PLAN).exists():
        return f"{root} is no run folder; make one: keel extract MODEL -o {root}"
    resume = read_plan(root / PLAN).plan.resume_command(root)
    return f"the run in {root} is not finished (it has no {MANIFEST}); go on with: {resume}"
