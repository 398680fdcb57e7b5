"""Settings of a sweep stand beside those of a calibration, and say that they are a sweep's."""

import torch

from keel.store import FloorsFile
from keel.store.floors import after_calibration, with_swept
from keel.types import Floor, Floors


def band(name: str, value: float = 0.0, **provenance: str) -> Floors:
    return Floors((Floor(0, torch.tensor([1.0, 0.0]), value),), name, provenance=provenance)


def marks(settings) -> dict[str, str | None]:
    return {one.name: one.provenance.get("sweep") for one in settings}


def test_swept_settings_come_behind_those_that_are_there_or_in_their_place():
    there = (band("a", threshold="p75"), band("b", sweep="recommended"))
    found = with_swept(there, (band("c"), band("a", threshold="p75")), "c")
    # b was an earlier sweep's recommendation, and is none of this one's.
    assert marks(found) == {"a": "measured", "b": None, "c": "recommended"}
    assert found[0].provenance["threshold"] == "p75"


def test_a_new_calibration_keeps_swept_settings_and_drops_the_old_calibration_s():
    old = FloorsFile(
        (band("old"), band("both", sweep="measured"), band("s", sweep="measured")), "old"
    )
    found = after_calibration(old, [band("new"), band("both")])
    assert marks(found) == {"new": None, "both": "measured", "s": "measured"}


def test_a_swept_name_that_now_means_other_floors_ends_the_sweep():
    old = FloorsFile((band("both", 1.0, sweep="measured"),), "both")
    assert after_calibration(old, [band("both", 2.0)]) is None
