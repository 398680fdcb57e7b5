"""Named bands come back to the last bit, one of them the default."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from keel.errors import UsageError
from keel.store import read_floors, save_floors
from keel.store.files import read_tensors
from keel.types import Floor, Floors


def equal(first: Floors, second: Floors) -> bool:
    """Equality to the last bit."""
    rest = all(
        getattr(first, name) == getattr(second, name) for name in ("name", "identity", "provenance")
    )
    return rest and all(
        (a.layer, a.value, a.tokens) == (b.layer, b.value, b.tokens)
        and torch.equal(a.direction, b.direction)
        for a, b in zip(first, second, strict=True)
    )


def test_bands_come_back_and_the_default_is_meant_where_none_is_named(
    tmp_path: Path, bands: tuple[Floors, Floors]
):
    save_floors(bands, tmp_path / "floors", default="layers_1:3-p75")
    file = read_floors(tmp_path / "floors")
    assert file.names == ("layers_1:3-p50", "layers_1:3-p75")
    assert equal(file.named(None), bands[1])
    assert equal(file.named("layers_1:3-p50"), bands[0])


def test_settings_share_their_directions_on_disk(tmp_path: Path, bands: tuple[Floors, Floors]):
    save_floors(bands, tmp_path / "floors", default=bands[0].name)
    # two settings of two layers each, on the same two directions
    assert read_tensors(tmp_path / "floors")[0]["directions"].shape == (2, 6)


def test_a_floor_for_some_tokens_or_of_minus_infinity_comes_back(tmp_path: Path):
    direction = torch.tensor([0.0, 1.0])
    floors = (Floor(0, direction, -math.inf, "generated"), Floor(3, -direction, 0.1, "prompt"))
    save_floors([Floors(floors, "odd")], tmp_path / "floors", default="odd")
    assert equal(read_floors(tmp_path / "floors").named("odd"), Floors(floors, "odd"))


def test_an_unknown_setting_is_refused_with_names_like_it(
    tmp_path: Path, bands: tuple[Floors, Floors]
):
    save_floors(bands, tmp_path / "floors", default=bands[0].name)
    with pytest.raises(UsageError, match=r"no setting 'layers_1:3_p75' among the 2; near it: la"):
        read_floors(tmp_path / "floors").named("layers_1:3_p75")


def test_two_settings_of_one_name_are_refused(tmp_path: Path, bands: tuple[Floors, Floors]):
    twice = [bands[0], replace(bands[1], name=bands[0].name)]
    with pytest.raises(UsageError, match="share a name"):
        save_floors(twice, tmp_path / "floors", default=bands[0].name)
    assert not (tmp_path / "floors").exists()


def test_a_default_that_is_not_there_is_refused(tmp_path: Path, bands: tuple[Floors, Floors]):
    with pytest.raises(UsageError, match="default setting 'p99' is not among"):
        save_floors(bands, tmp_path / "floors", default="p99")
