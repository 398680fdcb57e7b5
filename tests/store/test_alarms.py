"""The alarm's file in a run."""

import json
from dataclasses import replace

import pytest
import torch

import keel
from keel.alarm import Alarm, AlarmFit
from keel.errors import (
    CorruptArtifactError,
    MissingArtifactError,
    ModelMismatchError,
    StaleArtifactError,
)
from keel.store.records import to_record
from keel.types import Interval, ModelIdentity


@pytest.fixture
def alarm(axis) -> Alarm:
    direction = axis.direction[1].float()
    fit = AlarmFit(40, 240, 9600, held_out=20, held_out_rate=Interval(0.0, 0.0, 0.17))
    return Alarm(
        1, direction, -1.5, 3.0, (1.1, 0.6), 0.4, 0.3, 1.8, axis.identity, fit=fit, rate=0.02
    )


def test_an_alarm_comes_back_from_its_run(finished, alarm):
    finished.save_alarm(alarm)
    loaded = keel.load_alarm(finished.path)
    assert torch.equal(loaded.direction, alarm.direction)
    assert to_record(loaded) == to_record(alarm)
    assert loaded.fit == alarm.fit
    assert finished.read().has_alarm


def test_an_alarm_is_read_from_its_file_alone(finished, alarm):
    finished.save_alarm(alarm)
    assert keel.load_alarm(finished.path / "alarm.json").rate == 0.02


def test_a_run_without_an_alarm_says_how_to_make_it(finished):
    with pytest.raises(MissingArtifactError, match="keel drift calibrate"):
        keel.load_alarm(finished.path)


def test_an_alarm_of_a_replaced_axis_is_stale(finished, alarm, found_map):
    finished.save_alarm(alarm)
    other = replace(found_map, axis=replace(found_map.axis, vector=found_map.axis.vector * 2))
    finished.save_map(other)
    with pytest.raises(StaleArtifactError, match="another axis"):
        keel.load_alarm(finished.path)


def test_an_alarm_of_another_model_is_refused(finished, alarm):
    finished.save_alarm(alarm)
    with pytest.raises(ModelMismatchError, match="made on another model"):
        keel.load_alarm(finished.path, identity=ModelIdentity("other", 99, 3))


@pytest.mark.parametrize("damage", ["cut", "field", "list"])
def test_a_damaged_alarm_is_a_plain_error(finished, alarm, damage):
    finished.save_alarm(alarm)
    path = finished.path / "alarm.json"
    record = json.loads(path.read_text())
    del record["value"]["within"]
    texts = {"cut": path.read_text()[:100], "field": json.dumps(record), "list": "[]"}
    copy = finished.path / "copy.json"
    copy.write_text(texts[damage])
    with pytest.raises(CorruptArtifactError):
        keel.load_alarm(copy)
