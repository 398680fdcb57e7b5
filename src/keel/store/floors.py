"""Named settings of floors in one file, one of them the default. Directions are kept once each.

Settings that a sweep measured stand beside those that a calibration made. They say so in their
provenance, under `sweep`: `recommended`, or `measured`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.errors import UsageError
from keel.store.artefacts import read_artefact, write_artefact
from keel.store.files import reading
from keel.store.records import from_record, to_record
from keel.types import Floor, Floors

MARK = "sweep"
"""Key in the provenance of a setting that a sweep measured."""


@dataclass(frozen=True)
class FloorsFile:
    """Settings of floors by name, and the default among them."""

    settings: tuple[Floors, ...]
    default: str
    axis_sha256: str = ""
    """Hash of the axis file that they were calibrated on; empty where unknown."""

    def __post_init__(self) -> None:
        names = self.names
        if len(set(names)) < len(names):
            raise UsageError(f"two settings share a name among {list(names)}; name each its own")
        if self.default not in names:
            raise UsageError(f"default setting {self.default!r} is not among {list(names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the settings, in their order."""
        return tuple(setting.name for setting in self.settings)

    def named(self, name: str | None) -> Floors:
        """The setting of that name; the default for None."""
        wanted = self.default if name is None else name
        check_setting(wanted, self.names)
        return next(setting for setting in self.settings if setting.name == wanted)


def check_setting(name: str, names: Iterable[str]) -> None:
    """Refuse an unknown setting's name, offering those that look like it."""
    known = list(names)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known[:3]
        raise UsageError(
            f"there is no setting {name!r} among the {len(known)}; near it: {', '.join(near)}"
        )


def save_floors(
    settings: Sequence[Floors], path: Path, *, default: str, axis_sha256: str = ""
) -> None:
    """Write settings of floors; `default` names the one that is meant where none is named."""
    file = FloorsFile(tuple(settings), default, axis_sha256)
    rows: dict[bytes, int] = {}
    directions: list[Tensor] = []

    def row(direction: Tensor) -> int:
        """The direction's row in the tensor to be written: settings of one layer share theirs."""
        whole = direction.detach().float().cpu().contiguous()
        number = rows.setdefault(whole.numpy().tobytes(), len(directions))
        if number == len(directions):
            directions.append(whole)
        return number

    bands = [
        {
            **to_record(setting),
            "floors": [{**to_record(floor), "row": row(floor.direction)} for floor in setting],
        }
        for setting in file.settings
    ]
    facts = {"default": default, "axis": axis_sha256, "settings": bands}
    write_artefact(path, "floors", {"directions": torch.stack(directions)}, facts)


def read_floors(path: Path) -> FloorsFile:
    """The settings that `save_floors` wrote."""
    file = read_artefact(path, "floors")
    with reading(path, "floors"):
        rows = file.tensors["directions"]
        settings = tuple(_band(record, rows) for record in file.facts["settings"])
        return FloorsFile(settings, file.facts["default"], file.facts["axis"])


def with_swept(
    present: Sequence[Floors], swept: Sequence[Floors], recommended: str
) -> tuple[Floors, ...]:
    """The present settings, then those swept; marks of earlier sweeps are removed.

    A swept setting replaces a present one of its name.
    """
    marked = {
        floors.name: _marked(floors, "recommended" if floors.name == recommended else "measured")
        for floors in swept
    }
    kept = {floors.name: marked.get(floors.name, _marked(floors, None)) for floors in present}
    return tuple({**kept, **marked}.values())


def after_calibration(old: FloorsFile, made: Sequence[Floors]) -> tuple[Floors, ...] | None:
    """A new calibration's settings, followed by those that were swept before.

    None where a swept setting's name now stands for other floors, of which the sweep's results
    are no longer true.
    """
    swept = {floors.name: floors for floors in old.settings if MARK in floors.provenance}
    if any(new.name in swept and not _are_same(new, swept[new.name]) for new in made):
        return None
    kept = {new.name: swept.get(new.name, new) for new in made}
    return tuple({**kept, **swept}.values())


def _are_same(first: Floors, second: Floors) -> bool:
    return len(first) == len(second) and all(
        (a.layer, a.value, a.tokens) == (b.layer, b.value, b.tokens)
        and torch.equal(a.direction, b.direction)
        for a, b in zip(first, second, strict=True)
    )


def _marked(floors: Floors, mark: str | None) -> Floors:
    """The setting with a sweep's mark, or without any."""
    if mark is not None:
        return replace(floors, provenance={**floors.provenance, MARK: mark})
    return replace(floors, provenance={k: v for k, v in floors.provenance.items() if k != MARK})


def _band(record: dict[str, Any], rows: Tensor) -> Floors:
    floors = []
    for floor in record["floors"]:
        rest = {key: value for key, value in floor.items() if key != "row"}
        floors.append(from_record(Floor, rest, {"direction": rows[floor["row"]]}))
    rest = {key: value for key, value in record.items() if key != "floors"}
    return from_record(Floors, rest, {"floors": tuple(floors)})
