"""Values come back as they were, and damage is told from values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from keel.errors import CorruptArtifactError, UsageError
from keel.store.records import canonical, from_record, to_record
from keel.types import DriftReading, Interval, Judgement, LayerCalibration, Message, Replay


def _through_json(value: object) -> object:
    return from_record(type(value), json.loads(json.dumps(to_record(value), allow_nan=False)))


def test_nested_values_come_back_equal(replay: Replay, reading: DriftReading):
    assert _through_json(replay) == replay
    assert _through_json(reading) == reading


def test_whole_number_keys_come_back_as_numbers():
    layer = LayerCalibration(0, {1: 0.5, 99: 1.5}, {}, 0.0, 1.0, (0.0, 1.0), (1.0,), (1.0,))
    assert _through_json(layer) == layer


def test_tokens_that_are_unknown_stay_unknown_and_none_stay_none():
    assert _through_json(Message("user", "hi")) == Message("user", "hi")
    assert _through_json(Message("user", "hi", ())) == Message("user", "hi", ())


def test_numbers_that_json_does_not_know_come_back():
    found = _through_json(Interval(math.nan, -math.inf, math.inf))
    assert math.isnan(found.value)
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_every_digit_comes_back():
    value = Interval(0.1 + 0.2, 5e-324, 1.7976931348623157e308)
    assert _through_json(value) == value


def test_numbers_of_numpy_become_plain():
    assert to_record({"a": np.float32(0.5), "b": np.int64(3)}) == {"a": 0.5, "b": 3}


def test_what_has_no_json_form_is_refused_by_name():
    with pytest.raises(UsageError, match="Path has no JSON form|PosixPath has no JSON form"):
        to_record({"where": Path("x")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scroe": 1}, r"unknown fields \['scroe'\]"),
        ({"label": "mostly"}, "Judgement.label is 'mostly', expected one of"),
        ({"score": "3"}, "Judgement.score is '3', expected a number"),
        ({"score": True}, "Judgement.score is 'True', expected a number"),
        ({"rollout_id": 7}, "Judgement.rollout_id is '7', expected str"),
        ({"rollout_id": None}, "Judgement.rollout_id is 'None', expected str"),
    ],
)
def test_damage_is_named_with_its_place(change: dict[str, object], words: str):
    with pytest.raises(CorruptArtifactError, match=words):
        from_record(Judgement, {"rollout_id": "a", "label": "fully", **change})


def test_missing_fields_are_named_and_those_with_defaults_are_not_missed():
    assert from_record(Judgement, {"rollout_id": "a", "label": "none"}).status == "ok"
    with pytest.raises(CorruptArtifactError, match=r"lacks \['label'\]"):
        from_record(Judgement, {"rollout_id": "a"})


def test_a_value_that_does_not_hold_together_is_damage():
    with pytest.raises(CorruptArtifactError, match="has no messages"):
        from_record(_conversation(), {"messages": []})


def test_the_hash_text_does_not_depend_on_the_order_of_keys():
    assert canonical({"a": 1, "b": (2, None)}) == canonical({"b": [2, None], "a": 1})


def _conversation() -> type:
    from keel.types import Conversation

    return Conversation
