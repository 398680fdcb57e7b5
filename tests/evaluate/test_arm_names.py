"""Arms are asked for in one way each, and what makes no sense is refused at once."""

import pytest

from keel.errors import UsageError
from keel.evaluate import ArmSpec, parse_arms


def names(text: str) -> list[str]:
    return [spec.name for spec in parse_arms(text)]


def test_every_kind_of_arm_can_be_asked_for():
    text = (
        "none,capped,capped:layers_18:23-p75,steered:-0.5,steered:+0.5,steered:-0.5@26,replaced,"
        "random,random:-0.5,random#2,shuffled,in-span,in-span:-0.5,prompt,reprompt,"
        "random#3:+0.5@4,in-span#2:layers_18:23-p90,random-lift,in-span-lift#2:layers_18:23-p90"
    )
    assert names(text) == text.split(",")


def test_a_name_reads_back_as_the_same_arm():
    for spec in parse_arms("capped:layers_1:3-p50,random#2:-0.25@3,shuffled:+1e-05"):
        assert parse_arms(spec.name)[-1] == spec


def test_the_unsteered_arm_is_always_there_and_first():
    assert names("capped,none") == ["none", "capped"]
    assert names("capped") == ["none", "capped"]


def test_names_are_canonical_however_a_strength_is_written():
    assert names(" steered:0.50 , random#1:-.5") == ["none", "steered:+0.5", "random:-0.5"]


def test_an_unknown_arm_names_the_known_ones():
    with pytest.raises(UsageError, match=r"unknown arm 'caped'; there are none, capped.*in-span"):
        parse_arms("none,caped")


@pytest.mark.parametrize("text", ["capped,capped", "steered:0.5,steered:+0.50", "random,random#1"])
def test_an_arm_named_twice_is_refused(text):
    with pytest.raises(UsageError, match="named twice"):
        parse_arms(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unknown arm ''"),
        ("capped,", "unknown arm ''"),
        ("steered", "no strength"),
        ("steered:", "written wrongly"),
        ("steered:much", "expected steered:STRENGTH"),
        ("steered:-0.5@x", "expected steered:STRENGTH"),
        ("steered:0", "a step of 0"),
        ("steered:1e999", "a step of inf"),
        ("steered:nan", "expected steered:STRENGTH"),
        ("capped:-0.5", "no arm"),
        ("prompt:hello", "no arm"),
        ("random:-0.5#2", "written wrongly"),
        ("random#0", "counted from 1"),
        ("random#x", "no draw"),
        ("capped#2", "draws are of controls"),
        ("capped-lift", "unknown arm"),
        ("random-lift:-0.5", "no arm"),
        ("steered#2:-0.5", "draws are of controls"),
    ],
)
def test_what_makes_no_sense_is_refused(text, problem):
    with pytest.raises(UsageError, match=problem):
        parse_arms(text)


def test_a_control_with_a_number_controls_steering_and_one_without_the_cap():
    step, bound = ArmSpec("random", -0.5), ArmSpec("random")
    assert step.is_control
    assert step.is_step
    assert bound.is_control
    assert not bound.is_step
