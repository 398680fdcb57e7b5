"""Named settings of floors in one file, one of them the default. Directions are kept once each.

Settings that a sweep measured stand beside those that a calibration made. They say so in their
provenance, under `sweep`: `recommended`, or `measured`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keel.arrays import Framework, Tensor, torch
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
    bands = [to_record(setting) for setting in file.settings]
    rows: dict[bytes, int] = {}
    directions: list[Tensor] = []
    for setting, band in zip(file.settings, bands, strict=True):
        for floor, record in zip(setting, band["floors"], strict=True):
            whole = floor.direction.detach().float().cpu().contiguous()
            # Settings of one layer share their direction's row.
            record["row"] = rows.setdefault(whole.numpy().tobytes(), len(directions))
            if record["row"] == len(directions):
                directions.append(whole)
    facts = {"default": default, "axis": axis_sha256, "settings": bands}
    write_artefact(path, "floors", {"directions": torch.stack(directions)}, facts)


def read_floors(path: Path, framework: Framework = "pt") -> FloorsFile:
    """The settings that `save_floors` wrote."""
    facts, tensors = read_artefact(path, "floors", framework)
    with reading(path, "floors"):
        settings = []
        for setting in facts["settings"]:
            floors = []
            for floor in setting.pop("floors"):
                direction = tensors["directions"][floor.pop("row")]
                floors.append(from_record(Floor, floor, {"direction": direction}))
            settings.append(from_record(Floors, setting, {"floors": tuple(floors)}))
        return FloorsFile(tuple(settings), facts["default"], facts["axis"])


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
    kept = {new.name: swept.get(new.name, new) for new in made}
    if any(not _are_same(new, kept[new.name]) for new in made):
        return None
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
