"""A finished run has all that arms are made of."""

import pytest

from keel.calibrate import CalibrateSettings
from keel.errors import MissingArtifactError
from keel.evaluate import parse_arms
from keel.pipeline import arms_of, calibrate
from keel.store import RunFolder, open_run
from keel.words import tenths
from tests.pipeline.small import open_small


def test_every_kind_of_arm_can_be_made_of_a_calibrated_run(whole_with_floors, model_folder):
    run = open_run(whole_with_floors)
    other = next(name for name in run.settings if name != run.floors.name)
    text = f"none,capped,capped:{other},steered:-0.5,replaced,random,shuffled,in-span:-0.5,prompt"
    told = []
    arms = arms_of(
        open_small(model_folder),
        run,
        parse_arms(text),
        on_progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    assert [arm.name for arm in arms] == text.split(",")
    assert told[-1][1] == told[-1][2]


def test_controls_are_matched_on_the_very_answers_that_calibration_read(
    run: RunFolder, model_folder
):
    """Of 8 default and 16 role answers three each are taken; on them 75 % of tokens lie under
    the floor, on others it would be another share."""
    settings = CalibrateSettings(percentiles=(75.0,), rollouts=3, priced_rollouts=2, seed=5)
    engine = open_small(model_folder)
    found = calibrate(engine, run, settings)
    nominal = found.setting.nominal_firing
    told = []
    arms = arms_of(
        engine,
        run.read(),
        parse_arms("random"),
        on_progress=lambda stage, done, total: told.append(total),
    )
    assert told[-1] > 6
    share = sum(nominal.values()) / len(nominal)
    assert f"{tenths(share)} of calibration slots" in arms[-1].note
    assert f"under {found.chosen}: {tenths(share)}" in arms[-1].note


def test_a_run_without_floors_says_how_to_make_them(run: RunFolder, model_folder):
    with pytest.raises(MissingArtifactError, match=rf"arm 'random': .*keel calibrate {run.path}"):
        arms_of(open_small(model_folder), run.read(), parse_arms("random"))
