"""Named bands of floors in one file, one of them the default. Directions are kept once each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from keel.errors import UsageError
from keel.store.artefacts import read_artefact, write_artefact
from keel.store.reading import reading
from keel.store.records import from_record, to_record
from keel.types import Floor, Floors


@dataclass(frozen=True)
class FloorsFile:
    """Bands by name, and which is meant where none is named."""

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
    """Write named bands."""
    file = FloorsFile(tuple(settings), default, axis_sha256)
    directions = _Directions()
    bands = [_band_record(setting, directions) for setting in file.settings]
    facts = {"default": default, "axis": axis_sha256, "settings": bands}
    write_artefact(path, "floors", {"directions": torch.stack(directions.kept)}, facts)


def read_floors(path: Path) -> FloorsFile:
    """The bands that `save_floors` wrote."""
    found = read_artefact(path, "floors")
    with reading(path, "floors"):
        rows = found.tensors["directions"]
        settings = tuple(_band(record, rows) for record in found.facts["settings"])
        return FloorsFile(settings, found.facts["default"], found.facts["axis"])


class _Directions:
    """Rows of the tensor to be written: settings of one layer share theirs."""

    def __init__(self) -> None:
        self.kept: list[Tensor] = []
        self._rows: dict[bytes, int] = {}

    def row(self, direction: Tensor) -> int:
        whole = direction.detach().float().cpu().contiguous()
        found = self._rows.setdefault(whole.numpy().tobytes(), len(self.kept))
        if found == len(self.kept):
            self.kept.append(whole)
        return found


def _band_record(band: Floors, directions: _Directions) -> dict[str, Any]:
    floors = [{**to_record(floor), "row": directions.row(floor.direction)} for floor in band]
    return {**to_record(band), "floors": floors}


def _band(record: dict[str, Any], rows: Tensor) -> Floors:
    floors = tuple(_floor(floor, rows) for floor in record["floors"])
    rest = {name: value for name, value in record.items() if name != "floors"}
    return from_record(Floors, rest, {"floors": floors})


def _floor(record: dict[str, Any], rows: Tensor) -> Floor:
    rest = {name: value for name, value in record.items() if name != "row"}
    return from_record(Floor, rest, {"direction": rows[record["row"]]})
