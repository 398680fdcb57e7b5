"""Our own files as `load_axis` and `load_floors` take them, and paths that are not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from keel.errors import (
    MissingArtifactError,
    ModelMismatchError,
    UsageError,
)
from keel.store import (
    load_axis,
    load_floors,
    save_axis,
    save_floors,
)
from keel.types import AssistantAxis, Floors, ModelIdentity


def test_ours_are_read_checked_against_the_model_and_given_another_layer(
    tmp_path: Path, axis: AssistantAxis, bands: tuple[Floors, Floors], identity: ModelIdentity
):
    save_axis(axis, tmp_path / "axis.safetensors")
    save_floors(bands, tmp_path / "floors.safetensors", default=bands[1].name)
    found = load_axis(tmp_path / "axis.safetensors", identity=identity, layer=3)
    assert (found.layer, found.provenance) == (3, axis.provenance)
    floors = load_floors(tmp_path / "floors.safetensors", identity=identity, axis=axis)
    assert floors.name == bands[1].name
    other = replace(identity, weights_hash="bb")
    for load in (load_axis, load_floors):
        name = load.__name__.removeprefix("load_")
        with pytest.raises(ModelMismatchError, match="made on another model: weights_hash aa"):
            load(tmp_path / f"{name}.safetensors", identity=other)


def test_ours_say_their_sign_themselves(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    with pytest.raises(UsageError, match="leave out orientation"):
        load_axis(tmp_path / "axis.safetensors", orientation="role-ward")


def test_a_layer_that_is_not_there_is_refused(tmp_path: Path, axis: AssistantAxis):
    save_axis(axis, tmp_path / "axis.safetensors")
    with pytest.raises(UsageError, match="axis layer is 4, expected 0 to 3"):
        load_axis(tmp_path / "axis.safetensors", layer=4)


@pytest.mark.parametrize("name", ["absent.pt", "./absent", "weights/axis.pt", "/no/such/folder"])
def test_a_path_that_is_not_there_says_so_without_asking_the_hub(name: str):
    with pytest.raises(MissingArtifactError, match="is not there; point at a file"):
        load_axis(name)
