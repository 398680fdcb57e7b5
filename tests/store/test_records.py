"""Values come back as they were, and damage is told from values."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from keel.errors import CorruptArtifactError, UsageError
from keel.store.records import canonical, from_record, tensors_of, to_record
from keel.types import (
    DriftReading,
    Interval,
    Judgement,
    LayerCalibration,
    Message,
    Replay,
    TraitSide,
)


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


@dataclass(frozen=True)
class _Inner:
    index: int = field(metadata={"key": "place"})


@dataclass(frozen=True)
class _Outer:
    indices: tuple[_Inner, ...] = field(metadata={"key": "places"})
    row: Tensor = field(metadata={"key": "line"})


def test_a_field_that_was_renamed_keeps_its_key_also_within_others():
    value = _Outer((_Inner(3),), torch.tensor([1.0]))
    record = to_record(value)
    assert record == {"places": [{"place": 3}]}
    assert list(tensors_of(value)) == ["line"]
    again = from_record(_Outer, record, tensors_of(value))
    assert again.indices == value.indices
    assert again.row is value.row
    with pytest.raises(CorruptArtifactError, match=r"unknown fields \['index'\]"):
        from_record(_Inner, {"index": 3})


def test_what_is_given_may_not_stand_in_the_record_too():
    with pytest.raises(CorruptArtifactError, match=r"unknown fields \['line'\]"):
        from_record(_Outer, {"places": [], "line": 1}, {"line": torch.zeros(1)})


def test_half_a_surrogate_pair_comes_back():
    assert _through_json(Message("user", "\ud800")) == Message("user", "\ud800")


def test_damage_deep_inside_is_named_by_its_keys(replay: Replay):
    record = to_record(replay)
    record["turns"][0]["capped"]["token_projections"] = [0.0, "high"]
    place = r"Replay.turns.0.capped.token_projections.1 is 'high', expected a valid number"
    with pytest.raises(CorruptArtifactError, match=place):
        from_record(Replay, record)


def test_a_whole_number_stands_for_a_number_and_not_the_other_way_round():
    assert from_record(Interval, {"value": 1, "low": 0, "high": 2}) == Interval(1.0, 0.0, 2.0)
    with pytest.raises(CorruptArtifactError, match=r"TraitSide.is_encouraged is '1'"):
        from_record(TraitSide, {"trait": "calm", "is_encouraged": 1})
    with pytest.raises(CorruptArtifactError, match=r"token_ids.0 is '1.0', expected a valid int"):
        from_record(Message, {"speaker": "user", "content": "", "token_ids": [1.0]})


def test_numbers_of_numpy_become_plain():
    assert to_record({"a": np.float32(0.5), "b": np.int64(3)}) == {"a": 0.5, "b": 3}


def test_what_has_no_json_form_is_refused_by_name():
    with pytest.raises(UsageError, match="Path has no JSON form|PosixPath has no JSON form"):
        to_record({"where": Path("x")})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scroe": 1}, r"unknown fields \['scroe'\]"),
        ({"label": "mostly"}, "Judgement.label is 'mostly', expected 'fully', "),
        ({"score": "3"}, "Judgement.score is '3', expected a valid number"),
        ({"score": True}, "Judgement.score is 'True', expected a valid number"),
        ({"rollout_id": 7}, "Judgement.rollout_id is '7', expected a valid string"),
        ({"rollout_id": None}, "Judgement.rollout_id is 'None', expected a valid string"),
    ],
)
def test_damage_is_named_with_its_place(change: dict[str, object], words: str):
    with pytest.raises(CorruptArtifactError, match=words):
        from_record(Judgement, {"rollout_id": "a", "label": "fully", **change})


def test_a_field_that_several_parts_have_too_much_is_named_once():
    places = [{"place": 1, "tokens": 2}, {"place": 3, "tokens": 4}]
    with pytest.raises(CorruptArtifactError, match=r"unknown fields \['tokens'\] and lacks \[\]"):
        from_record(_Outer, {"places": places}, {"line": torch.zeros(1)})


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


def test_a_field_added_later_leaves_hashes_of_before_as_they_were():
    plain = to_record(Message("user", "hi"))
    assert plain == {"speaker": "user", "content": "hi", "token_ids": None}
    thought = Message("assistant", "hi", thinking="well")
    assert to_record(thought)["thinking"] == "well"
    assert from_record(Message, to_record(thought)) == thought
    assert from_record(Message, plain) == Message("user", "hi")
