"""A trait map comes back from disk as it was, with and without an axis."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from keel.errors import CorruptArtifactError
from keel.store.artefacts import read_traits, save_traits, write_artefact
from keel.types import PersonaSpace, TraitAxis, TraitMap, TraitVector

NAMES = ("calm", "loud", "odd")


def trait_map() -> TraitMap:
    draw = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.randn(*shape, generator=draw)  # noqa: E731
    split = rand(2, 3)
    split[0, 1] = torch.nan  # a trait without an answer in one half of the questions
    return TraitMap(
        vectors=tuple(TraitVector(n, rand(2, 4), 9, 5, 3) for n in NAMES),
        dropped={"vague": 1},
        space=PersonaSpace(
            NAMES,
            rand(2, 4),
            rand(2, 2, 4),
            rand(2, 2),
            rand(2, 3, 2),
            rand(2, 3, 2),
            rand(2, 2),
            rand(2, 2),
        ),
        default_position_LN=rand(2, 3),
        split_half_LN=split,
        layer=1,
        axis=TraitAxis(rand(2, 3), rand(2, 3), rand(2, 3)),
        provenance={"judge": None, "settings": {"min_pairs": 5}},
        warnings=("few",),
    )


def same(one: object, other: object) -> bool:
    """Whether two values of one class hold the same, tensors bit for bit."""
    pairs = [(getattr(one, f.name), getattr(other, f.name)) for f in fields(one)]  # type: ignore[arg-type]
    return all(
        torch.equal(a.nan_to_num(9), b.nan_to_num(9)) if isinstance(a, torch.Tensor) else a == b
        for a, b in pairs
    )


@pytest.mark.parametrize("has_axis", [True, False])
def test_what_was_kept_comes_back(tmp_path: Path, has_axis: bool):
    kept = trait_map() if has_axis else replace(trait_map(), axis=None)
    save_traits(kept, tmp_path / "traits.safetensors")
    found = read_traits(tmp_path / "traits.safetensors")
    assert all(same(a, b) for a, b in zip(found.vectors, kept.vectors, strict=True))
    assert same(found.space, kept.space)
    assert (found.axis is None) == (kept.axis is None)
    if found.axis is not None:
        assert same(found.axis, kept.axis)
    rest = {"vectors": (), "axis": None, "space": kept.space}
    assert same(replace(found, **rest), replace(kept, **rest))


def test_the_same_map_is_the_same_bytes(tmp_path: Path):
    for name in ("a", "b"):
        save_traits(trait_map(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_that_is_no_trait_map_is_refused(tmp_path: Path):
    write_artefact(tmp_path / "x", "traits", {"vectors": torch.zeros(1)}, {"vectors": []})
    with pytest.raises(CorruptArtifactError, match="x"):
        read_traits(tmp_path / "x")
